package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/platform/trace"

	"bijou.dev/platform/names"
	"bijou.dev/platform/names/namestest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

func TestNamesInOptionsFollowTheCommonRules(t *testing.T) {
	for rule, set := range map[*names.Rule][]func(*service.Options, string){
		&names.Service: {
			func(o *service.Options, name string) { o.Name = name },
			func(o *service.Options, name string) {
				o.Listen = map[string]string{name: "hello:7000", "admin": "hello:9090"}
			},
		},
		&names.ID: {
			func(o *service.Options, name string) { o.Instance = name },
			func(o *service.Options, name string) { o.Version = name },
			func(o *service.Options, name string) { o.Environment = name },
			func(o *service.Options, name string) { o.Region = name },
			func(o *service.Options, name string) { o.Zone = name },
		},
	} {
		for _, set := range set {
			namestest.Check(t, *rule, func(name string) error {
				o := standalone(memnet.New(), "hello-1")
				o.Drain = -1 // the only other violation: a process with a good name is not started either
				set(&o, name)
				_, err := service.New(t.Context(), o, nil)
				if err != nil && !strings.Contains(err.Error(), rule.Must) {
					return nil
				}
				return err
			})
		}
	}
}

// standalone returns options for a process on the network n, without registry and config service.
func standalone(n *memnet.Network, instance string) service.Options {
	return service.Options{
		Name: "hello", Instance: instance, Zone: "b", Version: "v1",
		Listen: map[string]string{"grpc": instance + ":7000", "admin": instance + ":9090", "http": instance + ":8080"},
		Net:    service.Net{Listen: n.Listen, DialContext: n.DialContext},
		Drain:  4 * time.Second,
	}
}

// greet serves "hi" on the listener "http".
func greet(_ context.Context, setup *service.Setup) error {
	return setup.Handle("http",
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hi") }))
}

// run starts a process and returns what ends it: it waits for Run and returns its error.
func run(t *testing.T, o service.Options, setup service.SetupFunc) (p *service.Process, stop func() error) {
	t.Helper()
	p, err := service.New(t.Context(), o, setup)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

func client(n *memnet.Network) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
}

func get(t *testing.T, n *memnet.Network, url string) (int, string) {
	t.Helper()
	resp, err := client(n).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestTwoRunInOneProcessWithNobodyElseThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		for _, id := range []string{"hello-1", "hello-2"} {
			o := standalone(n, id)
			o.Discovery = []string{"registry:7000"} // no server listens there
			_, stop := run(t, o, greet)
			defer func() {
				if err := stop(); err != nil {
					t.Errorf("stopping %s: %v", id, err)
				}
			}()
		}
		time.Sleep(time.Second)
		for _, id := range []string{"hello-1", "hello-2"} {
			if code, body := get(t, n, "http://"+id+":8080/"); code != 200 || body != "hi" {
				t.Errorf("%s answered %d %q", id, code, body)
			}
			code, body := get(t, n, "http://"+id+":9090/readyz")
			var r struct {
				Status string
				Checks []struct {
					Name, Reason string
					OK, Needed   bool
				}
			}
			if err := json.Unmarshal([]byte(body), &r); err != nil || code != 200 || r.Status != "ready" {
				t.Fatalf("readyz of %s: %d %s (%v)", id, code, body, err)
			}
			for _, c := range r.Checks {
				if c.Needed || c.OK || c.Reason == "" {
					t.Errorf("without a server the check %q must be not needed, not ok, with a reason: %+v", c.Name, c)
				}
			}
		}
	})
}

func TestAdminPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, stop := run(t, standalone(n, "hello-1"), greet)
		defer stop()
		for path, want := range map[string]string{
			"/":             "<h1>hello</h1>",
			"/healthz":      "alive",
			"/metrics":      `bijou_build_info{instance="hello-1",service="hello",version="v1",zone="b"} 1`,
			"/version":      `"zone": "b"`,
			"/config":       "trace.sampling",
			"/circuits":     "",
			"/debug/pprof/": "goroutine",
			"/instances":    "",
		} {
			if code, body := get(t, n, "http://hello-1:9090"+path); code != 200 || !strings.Contains(body, want) {
				t.Errorf("GET %s: %d, want 200 with %q in\n%.2000s", path, code, want, body)
			}
		}
		if code, _ := get(t, n, "http://hello-1:9090/nothing"); code != 404 {
			t.Errorf("an unknown page: %d", code)
		}
	})
}

func TestReadinessFollowsTheServicesOwnChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		problem := errs.Errorf(errs.Unavailable, "loading films")
		var mu sync.Mutex
		var now error = problem
		_, stop := run(t, standalone(n, "hello-1"), func(ctx context.Context, setup *service.Setup) error {
			setup.Ready("films", func() error {
				mu.Lock()
				defer mu.Unlock()
				return now
			})
			return greet(ctx, setup)
		})
		defer stop()
		conn, err := grpc.NewClient("passthrough:///hello-1:7000",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(memDial(n)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		expect := func(code int, status healthv1.HealthCheckResponse_ServingStatus) {
			t.Helper()
			time.Sleep(time.Second)
			if got, body := get(t, n, "http://hello-1:9090/readyz"); got != code {
				t.Errorf("readyz: %d %s, want %d", got, body, code)
			}
			h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil || h.Status != status {
				t.Errorf("health: %v %v, want %v", h.GetStatus(), err, status)
			}
		}
		expect(503, healthv1.HealthCheckResponse_NOT_SERVING)
		mu.Lock()
		now = nil
		mu.Unlock()
		expect(200, healthv1.HealthCheckResponse_SERVING)
		mu.Lock()
		now = problem
		mu.Unlock()
		expect(503, healthv1.HealthCheckResponse_NOT_SERVING)
	})
}

func TestStopFinishesWorkInHandAndUndoesInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		var undone []string
		entered := make(chan struct{})
		_, stop := run(t, standalone(n, "hello-1"), func(_ context.Context, setup *service.Setup) error {
			for _, name := range []string{"store", "index"} {
				setup.OnStop(name, func(context.Context) error {
					undone = append(undone, name)
					return nil
				})
			}
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				time.Sleep(time.Second)
				io.WriteString(w, "done")
			}))
		})
		answer := make(chan string, 1)
		go func() {
			resp, err := client(n).Get("http://hello-1:8080/")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			answer <- string(body)
		}()
		<-entered
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if got := <-answer; got != "done" {
			t.Errorf("the request in hand got %q", got)
		}
		if !slices.Equal(undone, []string{"index", "store"}) {
			t.Errorf("undone in order %v", undone)
		}
	})
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, stop := run(t, standalone(n, "hello-1"), func(ctx context.Context, setup *service.Setup) error {
			setup.OnStop("a stuck store", func(ctx context.Context) error {
				time.Sleep(time.Hour)
				return nil
			})
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				<-r.Context().Done() // a stream without an end
			}))
		})
		resp, err := client(n).Get("http://hello-1:8080/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		start := time.Now()
		err = stop()
		if err == nil || !strings.Contains(err.Error(), "stopping a stuck store: it did not end within 5s") {
			t.Errorf("stop: %v, want the name of what is stuck", err)
		}
		if d := time.Since(start); d > 12*time.Second {
			t.Errorf("stop took %v", d)
		}
		time.Sleep(2 * time.Hour) // let the stuck teardown end, so that the bubble can
	})
}

func TestAFailingPartStopsTheProcessAndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		p, err := service.New(t.Context(), standalone(n, "hello-1"), func(ctx context.Context, s *service.Setup) error {
			s.Go("index", func(context.Context) error { return errors.New("disk failed") })
			return greet(ctx, s)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running index: disk failed") {
			t.Errorf("Run: %v", err)
		}
	})
}

// What a part's failure ends is the process, and the process ends as ever: work in hand still has its settings, its
// registration and its calls.
func TestAFailingPartLetsTheProcessDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		entered := make(chan struct{})
		ended := make(chan struct{})
		p, err := service.New(t.Context(), standalone(n, "hello-1"), func(_ context.Context, s *service.Setup) error {
			s.Go("index", func(context.Context) error {
				<-entered
				return errors.New("disk failed")
			})
			s.Go("others", func(ctx context.Context) error {
				<-ctx.Done()
				close(ended)
				return nil
			})
			return s.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(entered)
				time.Sleep(2 * time.Second)
				select {
				case <-ended:
					fmt.Fprint(w, "alone")
				default:
					fmt.Fprint(w, "with the others")
				}
			}))
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- p.Run(t.Context()) }()
		if _, body := get(t, n, "http://hello-1:8080/"); body != "with the others" {
			t.Errorf("while the process drains, a request finds itself %s", body)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "running index: disk failed") {
			t.Errorf("Run: %v", err)
		}
	})
}

// A listener with an endless stream uses up the drain time; the others must not lose theirs by it.
func TestListenersDrainSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, stop := run(t, standalone(n, "hello-1"), func(_ context.Context, setup *service.Setup) error {
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}))
		})
		resp, err := client(n).Get("http://hello-1:8080/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		time.Sleep(time.Second) // of 4
		if c, err := n.DialContext(t.Context(), "tcp", "hello-1:7000"); err == nil {
			c.Close()
			t.Error("a second into the drain gRPC still takes connections")
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// The name of a listener is only a name: who claims it, serves it.
func TestAClaimedListenerIsServedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		o := standalone(n, "hello-1")
		delete(o.Listen, "http")
		_, stop := run(t, o, func(_ context.Context, setup *service.Setup) error {
			return setup.Handle("grpc", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w,
					"hi")
			}))
		})
		for range 20 {
			if code, body := get(t, n, "http://hello-1:7000/"); code != 200 || body != "hi" {
				t.Fatalf("got %d %q", code, body)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefusesAndLeavesNothingBehind(t *testing.T) {
	n := memnet.New()
	for name, c := range map[string]struct {
		change func(*service.Options)
		setup  service.SetupFunc
		want   string
	}{
		"name": {func(o *service.Options) { o.Name = "Hello World" }, greet, "Name must be"},
		"zone": {func(o *service.Options) { o.Zone = "a/b" }, greet, "Zone"},
		"known": {
			func(o *service.Options) { o.Discovery, o.Known = []string{"a:1"}, discovery.NewStatic(nil) },
			greet, "Known",
		},
		"seed":        {func(o *service.Options) { o.Discovery = []string{"discovery"} }, greet, "Discovery[0]"},
		"address":     {func(o *service.Options) { o.Listen["grpc"] = "7000" }, greet, "Listen.grpc"},
		"drain":       {func(o *service.Options) { o.Drain = -1 }, greet, "Drain must not be negative"},
		"idle":        {func(o *service.Options) { o.Listen["spare"] = "x:1" }, greet, `"spare"`},
		"no listener": {func(o *service.Options) { delete(o.Listen, "http") }, greet, `add http=:port`},
		"setup failed": {
			nil, func(context.Context, *service.Setup) error { return errors.New("no films") },
			"setting up hello: no films",
		},
	} {
		o := standalone(n, "hello-1")
		if c.change != nil {
			c.change(&o)
		}
		if _, err := service.New(t.Context(), o, c.setup); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	p, err := service.New(t.Context(), standalone(n, "hello-1"), greet) // every address is free again
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.New(t.Context(), standalone(n, "hello-1"), greet); err == nil ||
		!strings.Contains(err.Error(), "binding listener") {
		t.Errorf("an address in use: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// world is an operating system with these variables and arguments; all output goes to out.
func world(out io.Writer, env map[string]string, args ...string) service.World {
	return service.World{Args: args, Getenv: func(k string) string { return env[k] }, Stdout: out, Stderr: out}
}

func TestMainTranslatesTheWorldAndExits(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		code int
		want string
	}{
		{"help", []string{"-h"}, nil, service.ExitOK, "-greeting"},
		{"version", []string{"version"}, nil, service.ExitOK, service.Version()},
		{"unknown flag", []string{"-nope"}, nil, service.ExitUsage, "nope"},
		{"stray argument", []string{"x"}, nil, service.ExitUsage, `unexpected argument "x"`},
		{"bad variable", nil, map[string]string{"BIJOU_DRAIN": "soon"}, service.ExitUsage, `BIJOU_DRAIN="soon"`},
		{"bad option", nil, map[string]string{"BIJOU_ZONE": "a b"}, service.ExitFailed, "Zone"},
		{
			"no process to check",
			[]string{"healthcheck", "-listen", "admin=127.0.0.1:1"},
			nil, service.ExitFailed,
			"checking health",
		},
	} {
		var out bytes.Buffer
		var greeting string
		code := service.RunMain(t.Context(), "hello", world(&out, c.env, c.args...),
			func(f *service.Flags) { f.StringVar(&greeting, "greeting", "Hello", "what to say") }, greet)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit %d with %q; want %d with %q", c.name, code, out.String(), c.code, c.want)
		}
	}
}

func TestHealthcheckAsksTheRunningProcess(t *testing.T) {
	o := service.Options{Name: "hello", Listen: map[string]string{
		"grpc": "127.0.0.1:0", "admin": "127.0.0.1:0",
		"http": "127.0.0.1:0",
	}}
	p, err := service.New(t.Context(), o, greet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var out bytes.Buffer
	code := service.RunMain(t.Context(), "hello", world(&out, nil, "healthcheck", "-listen", "admin="+p.Addr("admin")),
		nil, greet)
	if code != service.ExitOK {
		t.Errorf("exit %d: %s", code, out.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	var seen string
	var zone string
	ctx, cancel := context.WithCancel(t.Context())
	env := map[string]string{"BIJOU_GREETING": "Bonjour", "BIJOU_ZONE": "c", "BIJOU_LISTEN": "admin=127.0.0.1:0"}
	var greeting string
	service.RunMain(ctx, "hello", world(io.Discard, env, "-zone", "d"),
		func(f *service.Flags) { f.StringVar(&greeting, "greeting", "Hello", "what to say") },
		func(_ context.Context, setup *service.Setup) error {
			seen, zone = greeting, setup.Zone()
			cancel()
			return nil
		})
	if seen != "Bonjour" || zone != "d" {
		t.Errorf("greeting %q, zone %q", seen, zone)
	}
}

func Example() {
	o := service.Options{Name: "hello", Instance: "hello-1", Listen: map[string]string{"http": "127.0.0.1:0"}}
	p, err := service.New(context.Background(), o, func(_ context.Context, setup *service.Setup) error {
		return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "hello from %s", setup.Instance())
		}))
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()

	resp, err := http.Get("http://" + p.Addr("http"))
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Println(string(body))
	stop()
	fmt.Println(<-done)
	// Output:
	// hello from hello-1
	// <nil>
}

func memDial(n *memnet.Network) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return n.DialContext(ctx, "tcp", addr) }
}

func TestLongStreamsAreSentAwayAndNotesAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		released := make(chan struct{})
		_, stop := run(t, standalone(n, "hello-1"), func(_ context.Context, setup *service.Setup) error {
			setup.OnDrain(sync.OnceFunc(func() { close(released) }))
			setup.Note("store", func() error { return errors.New("away since noon") })
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-released
			}))
		})
		time.Sleep(time.Second)
		if code, body := get(t, n, "http://hello-1:9090/readyz"); code != 200 ||
			!strings.Contains(body, "away since noon") {
			t.Errorf("readyz: %d %s", code, body)
		}
		resp, err := client(n).Get("http://hello-1:8080/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("a stream that could be sent away held the stop up for %v", d)
		}
	})
}

// What is opened when everything has been undone would never be closed.
func TestNothingIsDialledAfterTheEnd(t *testing.T) {
	p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"), greet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Dial("catalog"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, callee := range []string{"catalog", "search"} {
		if _, err := p.Dial(callee); !errors.Is(err, errs.Canceled) || !strings.Contains(err.Error(), callee) {
			t.Errorf("dialling %s: %v", callee, err)
		}
	}
}

func TestTextOfAnInternalErrorGoesToTheLogAndNotToTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		o := standalone(n, "hello-1")
		var log bytes.Buffer
		o.Log = slog.New(trace.Handler(slog.NewTextHandler(&log, nil)))
		_, stop := run(t, o, func(_ context.Context, p *service.Setup) error {
			return p.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				errs.WriteProblem(w, r, errs.Errorf(errs.Internal, "reading: %w", errors.New("secret")))
			}))
		})
		code, body := get(t, n, "http://hello-1:8080/")
		if err := stop(); err != nil {
			t.Error(err)
		}
		var problem struct{ TraceID string }
		if err := json.Unmarshal([]byte(body), &problem); err != nil || code != 500 ||
			strings.Contains(body, "secret") {
			t.Errorf("the caller sees %d %s (%v)", code, body, err)
		}
		var lines []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "secret") {
				lines = append(lines, line)
			}
		}
		if len(lines) != 1 || problem.TraceID == "" || !strings.Contains(lines[0], "trace_id="+problem.TraceID) {
			t.Errorf("the log has %d lines with the text, want one with trace_id %q: %s",
				len(lines), problem.TraceID, lines)
		}
	})
}
