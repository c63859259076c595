// Package hello is the smallest complete service: one contract and one setting. Copy it to start your own.
package hello

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"
	"bijou.dev/platform/text"
	hellov1 "bijou.dev/services/hello/api/hello/v1"
)

// Options is what the command line sets. The zero value is ready to use.
type Options struct {
	// Greeting is the default of the live setting hello.greeting. Empty: "Hello".
	Greeting string
}

// complete returns a copy with all defaults, or an error that names the fields that are wrong.
func (o Options) complete() (Options, error) {
	o.Greeting = cmp.Or(o.Greeting, "Hello")
	var bad errs.Violations
	if err := text.CheckLine(o.Greeting, 100); err != nil {
		bad.Add("Greeting", err.Error())
	}
	return o, bad.Err("options of hello")
}

// New sets up the hello service: gRPC always, HTTP if the process has a listener "http".
func New(_ context.Context, setup *service.Setup, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	spec := config.Spec{Doc: "The word before the name."}
	s := &server{greeting: config.String(setup.Config(), "hello.greeting", o.Greeting, spec)}
	hellov1.RegisterHelloServer(setup.GRPC(), s)
	if setup.Addr("http") == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello/{name}", s.serveHTTP)
	serveVersion := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, setup.Identity().GetVersion()) }
	mux.HandleFunc("GET /version", serveVersion)
	mux.HandleFunc("GET /hello", serveVersion) // routed by the gateway: shows which version of a split answers
	return setup.Handle("http", mux)
}

// server implements the contract.
type server struct {
	hellov1.UnimplementedHelloServer
	greeting *config.Value[string]
}

// Greet implements hellov1.HelloServer.
func (s *server) Greet(_ context.Context, r *hellov1.GreetRequest) (*hellov1.GreetResponse, error) {
	if n := len(r.GetName()); n < 1 || n > 100 {
		return nil, errs.Errorf(errs.Invalid, "greeting").Field("name", "must have 1 to 100 bytes")
	}
	return &hellov1.GreetResponse{Text: s.greeting.Get() + ", " + r.GetName() + "!"}, nil
}

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := s.Greet(r.Context(), &hellov1.GreetRequest{Name: r.PathValue("name")})
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, out.GetText())
}
