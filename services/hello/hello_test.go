package hello_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/hello"
	hellov1 "bijou.dev/services/hello/api/hello/v1"
)

// start runs one instance of hello on its own host until the test ends.
func start(t *testing.T, network *memnet.Network, host string, o hello.Options) {
	t.Helper()
	p, err := service.New(t.Context(), service.Options{
		Name: "hello", Instance: host, Version: "v7",
		Net:    service.Net{Listen: network.Listen, DialContext: network.DialContext},
		Listen: map[string]string{"grpc": host + ":7000", "admin": host + ":9090", "http": host + ":8080"},
	}, func(ctx context.Context, setup *service.Setup) error { return hello.New(ctx, setup, o) })
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Run(context.Background()) }() // Stop returns its error
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestTwoInstancesInOneProcess(t *testing.T) {
	network := memnet.New()
	start(t, network, "one", hello.Options{})
	start(t, network, "two", hello.Options{Greeting: "Salut"})
	client := &http.Client{Transport: &http.Transport{DialContext: network.DialContext, DisableKeepAlives: true}}
	for url, want := range map[string]string{
		"http://one:8080/hello/ann": "Hello, ann!\n", "http://two:8080/hello/ann": "Salut, ann!\n",
		"http://one:8080/version": "v7\n", "http://one:8080/hello": "v7\n",
	} {
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("GET %s returned %q, error %v; want %q", url, b, err, want)
		}
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) { return network.DialContext(ctx, "tcp", addr) }
	conn, err := grpc.NewClient("passthrough:///two:7000", grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	greeter := hellov1.NewHelloClient(conn)
	got, err := greeter.Greet(t.Context(), &hellov1.GreetRequest{Name: "bob"})
	if err != nil || got.GetText() != "Salut, bob!" {
		t.Errorf("Greet(bob) returned %q, error %v; want %q", got.GetText(), err, "Salut, bob!")
	}
	if _, err := greeter.Greet(t.Context(), &hellov1.GreetRequest{}); !errors.Is(errs.FromRPC(err), errs.Invalid) {
		t.Errorf("Greet without a name: error %v, want kind %v", err, errs.Invalid)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	err := hello.New(t.Context(), nil, hello.Options{Greeting: "two\nlines"})
	if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "Greeting") {
		t.Errorf("New with a greeting of two lines: error %v, want one of kind %v about Greeting", err, errs.Invalid)
	}
}
