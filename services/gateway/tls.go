package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/acme"
	"bijou.dev/services/gateway/internal/certs"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// ServeTLS takes connections over TLS from l until Shutdown or Close, and then returns nil. It needs certificates, see
// Options.
func (e *Edge) ServeTLS(l net.Listener) error {
	if e.tls == nil {
		return errs.Errorf(errs.Invalid, "serving TLS on %s: there are no certificates; set -certs or -acme-dir", l.Addr())
	}
	return e.listen(l, e.tls)
}

// openTLS opens the certificates.
func (e *Edge) openTLS() (err error) {
	if e.opts.Certs == "" && e.opts.ACMEDir == "" {
		return nil
	}
	e.certs, err = certs.New(certs.Options{Dir: e.opts.Certs, Metrics: e.opts.Metrics, Log: e.log})
	if err != nil {
		return err
	}
	e.tls = e.tlsConfig()
	if e.opts.ACMEDir == "" {
		return nil
	}
	e.acme, err = acme.New(acme.Options{
		Dir: e.opts.ACMEDir, Certs: e.certs, Client: e.opts.ACMEClient, Metrics: e.opts.Metrics, Log: e.log,
	})
	if err != nil {
		e.certs.Close()
		return err
	}
	e.acme.Apply(e.settings.acme.Get())
	e.unwatch = append(e.unwatch, e.settings.acme.Watch(func(_, s acme.Settings) { e.acme.Apply(s) }))
	return nil
}

func (e *Edge) closeTLS() {
	if e.acme != nil {
		e.acme.Close()
	}
	if e.certs != nil {
		e.certs.Close()
	}
}

// answerChallenge answers a certificate authority that checks a domain. False: the request is another one. Tokens are
// long and random, so no request for a route is taken by mistake.
func (e *Edge) answerChallenge(r *message.Request, w message.Writer) bool {
	if e.acme == nil || r.Method != http.MethodGet {
		return false
	}
	text, ok := e.acme.HTTP(r.Path)
	if !ok {
		return false
	}
	h := message.Header{{Name: "Content-Type", Value: "application/octet-stream"}}
	err := w.Begin(http.StatusOK, h, int64(len(text)))
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil || w.End(nil) != nil {
		w.Abort() // the client has left
	}
	return true
}

// tlsServer serves the edge on the listener "https" of a process.
type tlsServer struct{ *Edge }

// Serve is Edge.ServeTLS.
func (s tlsServer) Serve(l net.Listener) error { return s.ServeTLS(l) }

// Shutdown does nothing: the shutdown of the listener "http" ends both.
func (tlsServer) Shutdown(context.Context) error { return nil }

const (
	// Limits of a handshake: its time, what the client may send, how long it may wait for CPU time.
	handshakeTime  = 10 * time.Second
	handshakeBytes = 64 << 10
	handshakeWait  = time.Second

	// alertTime is how long telling the client that the connection ends may take. Only a client that reads nothing
	// makes it wait.
	alertTime = 5 * time.Millisecond
)

// tlsConfig returns what TLS is done with: TLS 1.2 and 1.3 as in Mozilla's intermediate configuration. Keys of
// session tickets are made by crypto/tls, which replaces them each day and accepts them for a week: that needs one
// Config for all connections.
func (e *Edge) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// Of TLS 1.2 only what HTTP/2 may use (RFC 9113, 9.2.2). Those of TLS 1.3 are not a choice.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		// What Mozilla's intermediate configuration has, and the hybrid with ML-KEM.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			s := hello.Conn.(*secure)
			if err := s.compute(hello.Context()); err != nil {
				return nil, err
			}
			if e.acme != nil {
				if c := e.acme.TLS(hello); c != nil {
					return c, nil
				}
			}
			if c := e.clientCerts.Load(); c != nil && c.asks(hello.ServerName) {
				s.asked = true
				return c.config, nil
			}
			return nil, nil //nolint:nilnil // this Config is used
		},
		GetCertificate: e.certs.Get,
	}
}

// newHandshakes returns the places for handshakes that compute at the same time. There is a core left for requests: a
// signature with an RSA key takes more CPU time than most requests, and clients can ask for many.
func newHandshakes() chan struct{} { return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)) }

// secure is a connection over TLS. It is also the connection below TLS, as crypto/tls sees it.
type secure struct {
	net.Conn // below TLS
	owner    *conn
	tls      *tls.Conn
	closing  atomic.Bool

	asked    bool // for a certificate; set before the first request
	verdicts verdicts

	// Used by the reader only.
	complete bool // the handshake
	left     int  // bytes that the client may send until the handshake is complete
	computes bool // it has a place in handshakes
}

var (
	errHandshakeBytes = fmt.Errorf("the client has sent more than %d bytes before the end of the handshake",
		handshakeBytes)
	errHandshakeBusy = fmt.Errorf("there was no CPU time for a handshake within %v", handshakeWait)
)

// startTLS puts TLS on a new connection. The handshake comes later.
func (c *conn) startTLS(config *tls.Config) {
	s := &secure{Conn: c.raw, owner: c, left: handshakeBytes}
	s.tls = tls.Server(s, config)
	c.secure, c.Conn = s, s.tls
}

// handshake makes the handshake, and returns what the client may speak.
func (s *secure) handshake() (http1.Protocol, error) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	err := s.tls.HandshakeContext(ctx)
	s.waits()
	edge := s.owner.conns.edge
	if err != nil {
		reason := "protocol"
		switch {
		case errors.Is(err, errHandshakeBusy):
			reason = "busy"
		case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			reason = "time"
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			reason = "closed"
		case s.tls.ConnectionState().ServerName != "" && !edge.certs.Has(s.tls.ConnectionState().ServerName):
			reason = "name"
		}
		edge.metrics.handshakes.WithLabelValues(reason).Inc()
		edge.log.Debug("a TLS handshake was not completed", "client", s.owner.peer.addr, "reason", reason,
			"error", err.Error())
		return 0, err
	}
	s.complete = true
	edge.metrics.handshakes.WithLabelValues("ok").Inc()
	switch s.tls.ConnectionState().NegotiatedProtocol {
	case "h2":
		return http1.OnlyHTTP2, nil
	case acme.Protocol:
		return 0, io.EOF // the authority has what it wants
	}
	return http1.OnlyHTTP1, nil // HTTP/2 needs ALPN (RFC 9113, 3.2)
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// compute waits for a place in handshakes. It is called when the client's first message is there, before anything that
// takes much CPU time.
func (s *secure) compute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeWait)
	defer cancel()
	select {
	case s.owner.conns.handshakes <- struct{}{}:
		s.computes = true
		return nil
	case <-ctx.Done():
		return errHandshakeBusy
	}
}

// waits gives the place back: the handshake waits for the client or has ended.
func (s *secure) waits() {
	if s.computes {
		s.computes = false
		<-s.owner.conns.handshakes
	}
}

// Read reads for crypto/tls.
func (s *secure) Read(p []byte) (int, error) {
	if s.complete {
		return s.Conn.Read(p)
	}
	s.waits()
	if s.left == 0 {
		return 0, errHandshakeBytes
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// Write writes for crypto/tls, within the time that the edge gives a client.
func (s *secure) Write(p []byte) (int, error) {
	if s.closing.Load() {
		if err := s.Conn.SetWriteDeadline(time.Now().Add(alertTime)); err != nil {
			return 0, err
		}
	} else if err := s.owner.beforeWrite(); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// SetWriteDeadline does nothing while the connection is being closed: crypto/tls would give a client that does not read
// 5 s for the alert that the connection ends.
func (s *secure) SetWriteDeadline(t time.Time) error {
	if s.closing.Load() {
		return nil
	}
	return s.Conn.SetWriteDeadline(t)
}

// closeWrite tells the client that nothing more comes.
func (s *secure) closeWrite() error {
	s.closing.Store(true)
	return s.tls.CloseWrite()
}

// close tells the client that the connection ends, and ends it.
func (s *secure) close() error {
	s.closing.Store(true)
	return s.tls.Close()
}
