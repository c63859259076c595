package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/kv/kvetcd/etcdtest"
)

// platform is a running stack. An instance is named "<service>-<n>"; the name of a service means its first instance.
// Ports are those of compose.yaml.
type platform interface {
	// addr returns the address, host:port, of a port of an instance.
	addr(instance string, port int) string
	// hold kills an instance without warning and keeps it down until start.
	hold(t testing.TB, instance string)
	// kill kills an instance without warning. Its restart policy starts it again.
	kill(t testing.TB, instance string)
	// start starts an instance that hold killed.
	start(t testing.TB, instance string)
	// restart stops an instance gracefully and starts it again.
	restart(t testing.TB, instance string)
	// logs returns the last log lines of an instance.
	logs(instance string) string
	// rate is a number of requests per second that the platform serves with ease on two cores of an idle machine. The
	// stories do not test capacity; see measure.
	rate() int
}

// story is a test of a running platform. Stories share a platform: each undoes its changes.
type story struct {
	name string
	run  func(t *testing.T, p platform)
}

func runStories(t *testing.T, p platform) {
	for _, s := range stories {
		t.Run("Story/"+s.name, func(t *testing.T) { s.run(t, p) })
	}
}

// registered returns the id that an instance has in the registry, from its page /version.
func registered(ctx context.Context, p platform, instance string) (string, error) {
	var me struct{ Instance string }
	err := getJSON(ctx, "http://"+p.addr(instance, 9090)+"/version", &me)
	return me.Instance, err
}

// edge returns the URL of the gateway, the one port for users.
func edge(p platform) string { return "http://" + p.addr("gateway", 8080) }

// eventually calls check until it returns nil, and fails t with the last error of check after within. It polls, because
// what it waits for happens in other processes.
func eventually(t testing.TB, within time.Duration, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil { // keep the error of before, not that of the ended context
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: not within %v; the last attempt: %v", what, within, last)
		case <-tick.C:
		}
	}
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
	MaxIdleConnsPerHost: 64,
	IdleConnTimeout:     time.Minute,
}}

// answer is a response with its whole body.
type answer struct {
	status int
	header http.Header
	body   string
}

func get(ctx context.Context, url string, header ...string) (answer, error) {
	return getBy(ctx, client, url, header...)
}

func getBy(ctx context.Context, client *http.Client, url string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return doBy(client, req)
}

// post sends JSON.
func post(ctx context.Context, url, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	return do(req)
}

func do(req *http.Request) (answer, error) { return doBy(client, req) }

func doBy(client *http.Client, req *http.Request) (answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// getJSON gets a URL and decodes its JSON into v. A status other than 200 is an error.
func getJSON(ctx context.Context, url string, v any) error {
	a, err := get(ctx, url)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("GET %s: status %d, want 200: %.300s", url, a.status, a.body)
	}
	return json.Unmarshal([]byte(a.body), v)
}

// bijou runs the command line against a platform and returns its exit code and output.
func bijou(t testing.TB, p platform, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	cmd.Env = append(os.Environ(), "BIJOU_DISCOVERY="+p.addr("discovery", 7000),
		"BIJOU_ZIPKIN=http://"+p.addr("tracing", 9411))
	cmd.Dir = t.TempDir() // outside a checkout, so that the command line finds no other running stack
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running bijou %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// must runs the command line and fails the story if the exit code is not 0.
func must(t testing.TB, p platform, args ...string) string {
	t.Helper()
	code, out := bijou(t, p, args...)
	if code != 0 {
		t.Fatalf("bijou %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// root is the top of the repository.
var root = mustString(filepath.Abs("../.."))

func mustString(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// bin is a folder for programs that are built once and used by all tests.
var bin = mustString(os.MkdirTemp("", "bijou-e2e-"))

func TestMain(m *testing.M) {
	etcdtest.Child()
	code := m.Run()
	_ = os.RemoveAll(bin)
	os.Exit(code)
}
