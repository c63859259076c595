package service_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
)

func TestKillIsServedOnlyWhereItIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		_, stop := run(t, standalone(n, "hello-1"), greet)
		defer stop()
		if code := kill(t, n, `{"author":"ann","reason":"game day"}`, nil); code != http.StatusNotFound &&
			code != http.StatusMethodNotAllowed {
			t.Errorf("POST /kill without permission: %d", code)
		}
	})
}

func TestKillCrashesTheProcessAndSaysWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		o := standalone(n, "hello-1")
		o.StateDir = t.TempDir()
		var crashed atomic.Int32
		o.Crash = func() { crashed.Add(1) }
		_, stop := run(t, o, greet)
		for body, want := range map[string]int{
			`{"author":"ann"}`:                                 http.StatusBadRequest,
			`{"author":"ann","reason":"r","for":"1h"}`:         http.StatusBadRequest,
			`{"author":"ann","reason":"game day","for":"20s"}`: http.StatusAccepted,
		} {
			if code := kill(t, n, body, nil); code != want {
				t.Errorf("POST /kill %s: %d, want %d", body, code, want)
			}
		}
		if code := kill(t, n, `{"author":"ann","reason":"r"}`,
			http.Header{"Origin": {"http://hello-1:9090"}}); code != http.StatusForbidden {
			t.Errorf("POST /kill from a browser: %d", code)
		}
		time.Sleep(time.Second)
		if got := crashed.Load(); got != 1 {
			t.Errorf("crashed %d times, want once", got)
		}
		stop()

		// The next start waits, and the one after it does not.
		for _, want := range []time.Duration{19 * time.Second, 0} {
			begin := time.Now()
			env := map[string]string{
				"BIJOU_STATE_DIR": o.StateDir, "BIJOU_ALLOW_KILL": "true", "BIJOU_LISTEN": "http=127.0.0.1:0",
			}
			var errs bytes.Buffer
			setup := func(context.Context, *service.Setup) error { return context.Canceled } // far enough
			code := service.RunMain(t.Context(), "hello", world(&errs, env), nil, setup)
			if took := time.Since(begin); code != service.ExitFailed || took < want-time.Second ||
				took > want+time.Second {
				t.Errorf("the start after a kill took %v, want %v: exit %d %s", took, want, code, &errs)
			}
		}
	})
}

func kill(t *testing.T, n *memnet.Network, body string, h http.Header) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://hello-1:9090/kill",
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if h != nil {
		req.Header = h.Clone()
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client(n).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
