package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"
)

// A caller says how long it waits. Each process on the way passes on what is left of that, and when it is over all of
// them stop, the last one too, although it has said nothing yet.
func TestTheDeadlineGoesWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back, front := newWorld(), newWorld()
		var left time.Duration
		var stopped time.Time
		back.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			<-ctx.Done()
			stopped = time.Now()
			return ctx.Err()
		})
		behind := back.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		front.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			time.Sleep(300 * time.Millisecond) // its own work
			_, err := behind.Get(ctx, &configv1.GetRequest{})
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := front.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})}).Get(ctx, &configv1.GetRequest{})
		if !errors.Is(err, errs.Timeout) {
			t.Errorf("got %v, want a time-out", err)
		}
		synctest.Wait()
		if left > 500*time.Millisecond || left < 490*time.Millisecond {
			t.Errorf("of 800 ms, with 300 ms spent, the second callee was given %v", left)
		}
		if took := stopped.Sub(begin); took != 800*time.Millisecond {
			t.Errorf("the second callee stopped after %v, want 800ms", took)
		}
	})
}

// The deadline of a call may have passed when it comes: nobody waits for it, so the handler is not bothered.
func TestAServerRefusesWorkThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		impl, _ := w.start(t, rpc.ServerOptions{}, ok)
		tr := &http.Transport{DialContext: w.net.DialContext, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		// A gRPC client gives up before the server does, so the call is written by hand: its message comes when the time is over.
		body, message := io.Pipe()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			time.Sleep(2 * time.Second)
			_, _ = message.Write(make([]byte, 5)) // an empty message; the server may have answered
			_ = message.Close()
		}()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://config-1:7000/bijou.config.v1.Config/Get", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Grpc-Timeout": {"1S"}}
		// Who is first decides: gRPC resets the stream at the deadline, or the server says so.
		status := "reset"
		if resp, err := tr.RoundTrip(req); err == nil {
			var rest bytes.Buffer
			_, _ = rest.ReadFrom(resp.Body) // trailers come after it
			_ = resp.Body.Close()
			status = resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status")
		} else if !strings.Contains(err.Error(), "CANCEL") {
			t.Error(err)
		}
		<-sent
		if status != "4" && status != "reset" || impl.calls.Load() != 0 { // 4: DEADLINE_EXCEEDED
			t.Errorf("status %q after %d calls of the handler, want 4 or a reset after none", status, impl.calls.Load())
		}
	})
}
