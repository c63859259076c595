// Package hook asks an external service whether a request may pass: by HTTP, as auth_request of nginx and ForwardAuth
// of Traefik do, or by gRPC in the protocol ext_authz of Envoy (envoy.service.auth.v3.Authorization).
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"
)

// Bounds of a hook.
const (
	maxBody   = 64 << 10 // bytes of a response
	maxHeader = 32 << 10
	maxAsked  = 512 // questions in progress; further ones fail at once
)

// Question is what a hook gets to know about a request. The hook gets no body.
type Question struct {
	Method, Scheme, Host string
	Path                 string // with its query
	Protocol             string // "HTTP/1.1"
	ID                   string
	Route                string
	Client               string   // the address of the client
	Chain                []string // the addresses for X-Forwarded-For
	Principal            string   // the name in the client's certificate; empty: there is none
	Header               message.Header
}

// Answer is what a hook says.
type Answer struct {
	// Allowed says that the request may pass.
	Allowed bool
	// Header is what the hook says about the caller, if the request may pass, else the header of the response for the
	// client.
	Header message.Header
	// Cookies are lines of Set-Cookie for the client, if the request may pass.
	Cookies []string
	// Status and Body are the response for the client, if the request may not pass.
	Status int
	Body   []byte
}

// Options are what all hooks share.
type Options struct {
	// DialContext connects to hooks. Required.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for hooks with TLS. Nil: the certificate authorities of the system.
	TLS *tls.Config
}

// Set is the hooks of the table in use.
type Set struct {
	opts Options

	mu      sync.Mutex
	all     map[string]*Hook // URL -> hook
	closing sync.WaitGroup   // hooks that no route needs any more, and that still have questions
}

// NewSet returns a set without hooks.
func NewSet(opts Options) *Set { return &Set{opts: opts, all: map[string]*Hook{}} }

// Bind returns the hook of each URL, and closes those of all other URLs when they are not in use any more.
func (s *Set) Bind(urls []string) map[string]*Hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := map[string]*Hook{}
	for _, u := range urls {
		if bound[u] = s.all[u]; bound[u] == nil {
			bound[u] = s.newHook(u)
		}
	}
	for u, h := range s.all {
		if bound[u] == nil {
			s.closing.Go(h.close)
		}
	}
	s.all = bound
	return bound
}

// Close closes all hooks. Questions in progress are waited for: they have time-outs.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Wait()
	for _, h := range s.all {
		h.close()
	}
	s.all = map[string]*Hook{}
}

// asker asks in one protocol.
type asker interface {
	ask(ctx context.Context, q *Question) (*Answer, error)
	close()
}

// Hook is one external service.
type Hook struct {
	asker  asker
	places chan struct{}
}

// CheckURL refuses what is no URL of a hook: http://, https://, grpc:// or grpcs://, the last two without a path.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "" || u.Opaque != "" ||
		len(text) > 512 {
		return errors.New("must be a URL with a host, without a query")
	}
	switch u.Scheme {
	case "http", "https":
		return nil
	case "grpc", "grpcs":
		if strings.Trim(u.Path, "/") != "" || u.Port() == "" {
			return errors.New("must have a port and no path with gRPC")
		}
		return nil
	}
	return errors.New("must begin with http://, https://, grpc:// or grpcs://")
}

// newHook returns the hook of a URL that was checked.
func (s *Set) newHook(text string) *Hook {
	u, _ := url.Parse(text) // CheckURL has parsed it
	h := &Hook{places: make(chan struct{}, maxAsked)}
	if strings.HasPrefix(u.Scheme, "grpc") {
		h.asker = newEnvoy(u, s.opts)
	} else {
		h.asker = newForward(text, s.opts)
	}
	return h
}

// close waits for the questions in progress, which have time-outs.
func (h *Hook) close() {
	for range cap(h.places) {
		h.places <- struct{}{}
	}
	h.asker.close()
}

// ErrBusy says that too many requests wait for the hook.
var ErrBusy = fmt.Errorf("%d requests wait for the hook", maxAsked)

// Ask asks the hook, for at most this time. An error means that the hook has not decided.
func (h *Hook) Ask(ctx context.Context, timeout time.Duration, q *Question) (*Answer, error) {
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return h.asker.ask(ctx, q)
}

// passes reports whether a field of the request goes to hooks: not if it is about the connection, the body or a part of
// the response, or says what only the platform may say.
func passes(name string) bool {
	switch name {
	case "Accept-Encoding", "Content-Encoding", "Range":
		return false
	}
	return !strings.HasPrefix(name, "If-") && !fields.HopByHop(name) && !fields.Stripped(name) && !fields.Traced(name) &&
		!fields.Disguised(name)
}

// forClient reports whether a field of the hook's response goes to the client.
func forClient(name string) bool {
	return name != "Content-Length" && name != "Date" && !fields.HopByHop(name) && !fields.Stripped(name)
}

// denied checks the status of a response for the client.
func denied(status int, h message.Header, body []byte) (*Answer, error) {
	if status < 300 || status > 499 || status == http.StatusNotModified {
		return nil, fmt.Errorf("the hook answered with the status %d", status)
	}
	return &Answer{Status: status, Header: h, Body: body}, nil
}
