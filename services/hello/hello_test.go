package hello_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/services/hello"
	hellov1 "bijou.dev/services/hello/api/hello/v1"
)

// start runs one hello on its own host that stops with the test.
func start(t *testing.T, house *memnet.Network, host string, o hello.Options) {
	t.Helper()
	p, err := service.New(t.Context(), service.Options{
		Name: "hello", Instance: host, Version: "v7", Net: service.Net{Listen: house.Listen, DialContext: house.DialContext},
		Listen: map[string]string{"grpc": host + ":7000", "admin": host + ":9090", "http": host + ":8080"},
	}, func(ctx context.Context, setup *service.Setup) error { return hello.New(ctx, setup, o) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Two of any service must run in one process.
func TestTwoInOneProcess(t *testing.T) {
	house := memnet.New()
	start(t, house, "one", hello.Options{})
	start(t, house, "two", hello.Options{Greeting: "Salut"})
	client := &http.Client{Transport: &http.Transport{DialContext: house.DialContext, DisableKeepAlives: true}}
	for url, want := range map[string]string{
		"http://one:8080/hello/ann": "Hello, ann!\n", "http://two:8080/hello/ann": "Salut, ann!\n", "http://one:8080/version": "v7\n", "http://one:8080/hello": "v7\n",
	} {
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", url, b, err)
		}
	}
	conn, err := grpc.NewClient("passthrough:///two:7000", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return house.DialContext(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := hellov1.NewHelloClient(conn).Greet(t.Context(), &hellov1.GreetRequest{Name: "bob"})
	if err != nil || got.GetText() != "Salut, bob!" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := hellov1.NewHelloClient(conn).Greet(t.Context(), &hellov1.GreetRequest{}); !errors.Is(errs.FromRPC(err), errs.Invalid) {
		t.Errorf("nobody: %v", err)
	}
}
