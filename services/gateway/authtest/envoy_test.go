// Package authtest tests the methods of auth with what others have made: the types of Envoy, and an OpenID provider.
package authtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/services/gateway"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// authorization is a server of Envoy's ext_authz that answers as a request asks it to.
type authorization struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	last *authv3.CheckRequest
}

// Check implements authv3.AuthorizationServer.
func (a *authorization) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	a.last = r
	a.mu.Unlock()
	header := func(key, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: key, Value: value}}
	}
	ok := &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{
			header("x-name", "ann"),
			{Header: &corev3.HeaderValue{Key: "x-teams", RawValue: []byte("it,dev")}},
			header("X-Broken", "a\r\nX-User: root"),
		},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("set-cookie", "a=1"), header("x-a", "b")},
		HeadersToRemove:      []string{"cookie"},
	}}
	denied := &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode_Found}, Body: "go there",
		Headers: []*corev3.HeaderValueOption{
			header("location", "https://login.example/"), header("content-length", "99"),
		},
	}}
	no := &status.Status{Code: int32(codes.PermissionDenied), Message: "no"}
	switch strings.TrimPrefix(r.GetAttributes().GetRequest().GetHttp().GetPath(), "/") {
	case "ok":
		return &authv3.CheckResponse{HttpResponse: ok}, nil
	case "bare":
		return &authv3.CheckResponse{Status: &status.Status{}}, nil
	case "denied":
		return &authv3.CheckResponse{Status: no, HttpResponse: denied}, nil
	case "no-status":
		return &authv3.CheckResponse{HttpResponse: denied}, nil
	case "status":
		return &authv3.CheckResponse{Status: no}, nil
	case "contradiction":
		return &authv3.CheckResponse{Status: no, HttpResponse: ok}, nil
	case "error":
		failed := &authv3.CheckResponse_ErrorResponse{ErrorResponse: denied.DeniedResponse}
		return &authv3.CheckResponse{HttpResponse: failed}, nil
	}
	return nil, fmt.Errorf("a defect of the hook")
}

// serve starts a server of ext_authz on loopback.
func (a *authorization) serve(t *testing.T) string {
	t.Helper()
	l := listen(t)
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, a)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(l) }) // ends with Stop
	t.Cleanup(func() {
		srv.Stop()
		done.Wait()
	})
	return l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// edge starts an edge with routes as JSON and returns its URL.
func edge(t *testing.T, opts gateway.EdgeOptions, routes string) string {
	t.Helper()
	l := listen(t)
	edgeOn(t, l, opts, routes)
	return "http://" + l.Addr().String()
}

// edgeOn starts an edge on a listener.
func edgeOn(t *testing.T, l net.Listener, opts gateway.EdgeOptions, routes string) {
	t.Helper()
	opts.Config = config.Static(map[string]string{"gateway.routes": routes})
	opts.Discovery = discovery.NewStatic(nil).Directory
	e, err := gateway.NewEdge(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range opts.Config.(*config.StaticSet).Entries() {
		if entry.Problem != "" {
			t.Fatalf("%s: %s", entry.Name, entry.Problem)
		}
	}
	served := make(chan error, 1)
	go func() { served <- e.Serve(l) }()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// get sends a request and does not follow redirects.
func get(t *testing.T, client *http.Client, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func newClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// The edge speaks ext_authz with the types that Envoy's servers use.
func TestEnvoyAuthorization(t *testing.T) {
	a := &authorization{}
	hook := a.serve(t)
	origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("X-User")+" "+r.Header.Get("X-Groups")+" "+r.Header.Get("X-Name"))
	}))
	t.Cleanup(origin.Close)
	url := edge(t, gateway.EdgeOptions{}, `[{"name":"api","to":[{"url":"`+origin.URL+`"}],"auth":{"methods":[
		{"hook":{"url":"grpc://`+hook+`","claims":{"sub":"X-Name","groups":"X-Teams","broken":"X-Broken"}}}],
		"claims":{"sub":"X-User","groups":"X-Groups","broken":"X-Broken"}}}]`)
	c := newClient(t)
	for path, want := range map[string]struct {
		status         int
		location, body string
	}{
		"ok": {200, "", "ann it,dev "}, "bare": {200, "", "  "}, "denied": {302, "https://login.example/", "go there"},
		"no-status": {302, "https://login.example/", "go there"}, "status": {403, "", ""}, "contradiction": {403, "", ""},
		"error": {503, "", ""}, "broken": {503, "", ""},
	} {
		res, body := get(t, c, url+"/"+path, "X-User", "root", "X-Name", "", "Accept", "application/json")
		if res.StatusCode != want.status || res.Header.Get("Location") != want.location ||
			want.status != 503 && body != want.body {
			t.Errorf("%s: %d %q, %v; want %+v", path, res.StatusCode, body, res.Header, want)
		}
		if cookie := res.Header.Get("Set-Cookie"); (path == "ok") != (cookie == "a=1") || res.Header.Get("X-A") != "" {
			t.Errorf("%s: the client got the cookie %q and X-A %q", path, cookie, res.Header.Get("X-A"))
		}
	}

	res, _ := get(t, c, url+"/ok?x=y", "Cookie", "a=1", "Accept", "text/html", "X-Odd", "a\xffb", "X-Two", "1",
		"X-Two", "2", "X-Forwarded-User", "root", "X-Request-Id", "id-1")
	if res.StatusCode != 503 {
		t.Fatalf("status %d, want 503: the server does not know this path", res.StatusCode)
	}
	got := a.last.GetAttributes()
	request := got.GetRequest().GetHttp()
	if request.GetMethod() != "GET" || request.GetPath() != "/ok?x=y" || "http://"+request.GetHost() != url ||
		request.GetScheme() != "http" || request.GetProtocol() != "HTTP/1.1" || request.GetId() != "id-1" ||
		request.GetSize() != -1 || got.GetContextExtensions()["route"] != "api" ||
		got.GetSource().GetAddress().GetSocketAddress().GetAddress() != "127.0.0.1" {
		t.Errorf("the hook got %v", got)
	}
	for name, want := range map[string]string{
		"cookie": "a=1", "accept": "text/html", "x-odd": "a!b", "x-two": "1,2", "x-forwarded-user": "", ":path": "/ok?x=y",
		"x-request-id": "id-1", "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http", "accept-encoding": "",
	} {
		if request.GetHeaders()[name] != want {
			t.Errorf("the hook got %s: %q, want %q", name, request.GetHeaders()[name], want)
		}
	}
	if request.GetHeaders()[":authority"] != request.GetHost() {
		t.Errorf("the hook got :authority %q", request.GetHeaders()[":authority"])
	}
}
