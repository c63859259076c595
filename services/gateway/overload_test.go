package gateway_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/routes"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

const byCriticality = `[
	{"name":"buy","match":{"prefix":"/buy"},"to":[{"service":"web"}],"criticality":"CRITICAL_PLUS"},
	{"name":"pages","match":{"prefix":"/"},"to":[{"service":"web"}]},
	{"name":"report","match":{"prefix":"/report"},"to":[{"service":"web"}],"criticality":"SHEDDABLE_PLUS"},
	{"name":"prefetch","match":{"prefix":"/","headers":[{"name":"Sec-Purpose","value":"prefetch"}]},
		"to":[{"service":"web"}],"criticality":"SHEDDABLE"}]`

// The route decides the criticality of a request, which the origin gets; the value of the client is removed.
func TestCriticalityIsSetAtTheEdge(t *testing.T) {
	w := newWorld(t, byCriticality)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, strings.Join(r.Header["Baggage"], "|"))
	}))
	for _, c := range []struct{ path, purpose, want string }{
		{"/", "", ""},
		{"/buy", "", "bijou.criticality=CRITICAL_PLUS"},
		{"/report", "", "bijou.criticality=SHEDDABLE_PLUS"},
		{"/", "prefetch", "bijou.criticality=SHEDDABLE"},
	} {
		header := []string{"Baggage", "bijou.criticality=CRITICAL_PLUS,user=1", "X-Bijou-Criticality", "CRITICAL_PLUS"}
		if c.purpose != "" {
			header = append(header, "Sec-Purpose", c.purpose)
		}
		if got := w.get("http://x"+c.path, header...).body; got != c.want {
			t.Errorf("%s %s: the origin got the baggage %q, want %q", c.path, c.purpose, got, c.want)
		}
	}
}

func TestUnknownCriticalityIsRefused(t *testing.T) {
	var list routes.Routes
	err := list.Set(`[{"name":"web","to":[{"service":"web"}],"criticality":"HIGH"}]`)
	if err == nil || !strings.Contains(err.Error(), "routes[0].criticality") ||
		!strings.Contains(err.Error(), "SHEDDABLE_PLUS") {
		t.Errorf("got %v, want the field and the right values", err)
	}
}

// An origin with four workers of 20 ms each gets three times the requests that it can serve, four fifths of them
// sheddable.
func TestOverloadShedsTheLeastCriticalFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, byCriticality, "overload.limit.initial", "40")
		workers := make(chan struct{}, 4)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			workers <- struct{}{}
			time.Sleep(20 * time.Millisecond)
			<-workers
			_, _ = io.WriteString(rw, "ok")
		}))
		client := w.client(true)
		var offered, good, shed, slow [2]atomic.Int64 // 0 critical, 1 sheddable
		var problems sync.Map
		one := func(kind int) {
			offered[kind].Add(1)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if kind == 1 {
				req.Header.Set("Sec-Purpose", "prefetch")
			}
			start := time.Now()
			res, err := client.Do(req)
			if err != nil {
				problems.Store(err.Error(), true)
				return
			}
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body) // only the status is used
			switch {
			case res.StatusCode == http.StatusOK:
				good[kind].Add(1)
			case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("X-Bijou-Fault") == "overload":
				shed[kind].Add(1)
				if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || s < 1 || s > 2 {
					t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
				}
				if time.Since(start) > 0 {
					slow[kind].Add(1) // in fake time a refusal takes none
				}
			default:
				problems.Store(res.Status+" "+res.Header.Get("X-Bijou-Fault"), true)
			}
		}
		var all sync.WaitGroup
		stream := func(kind int, rate float64) {
			rng := rand.New(rand.NewPCG(1, uint64(kind)))
			for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
				time.Sleep(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
				all.Go(func() { one(kind) })
			}
		}
		all.Go(func() { stream(0, 120) })
		all.Go(func() { stream(1, 480) })
		all.Wait()
		share := float64(good[0].Load()) / float64(offered[0].Load())
		done := good[0].Load() + good[1].Load()
		t.Logf("critical %.2f %% of %d, sheddable %.1f %% of %d, %.0f answers a second of 200",
			100*share, offered[0].Load(), 100*float64(good[1].Load())/float64(offered[1].Load()), offered[1].Load(),
			float64(done)/8)
		problems.Range(func(k, _ any) bool { t.Errorf("an answer was %v", k); return true })
		if share < .994 || done < 85*200*8/100 {
			t.Errorf("critical requests: %.2f %% served, %d shed; %d answers in all", 100*share, shed[0].Load(), done)
		}
		if slow[0].Load()+slow[1].Load() > 0 {
			t.Errorf("%d refusals took time", slow[0].Load()+slow[1].Load())
		}
		n := w.metric("bijou_overload_shed_total", "criticality=SHEDDABLE")
		if int64(n) != shed[1].Load() || n == 0 {
			t.Errorf("metrics count %v requests that were shed, clients %d", n, shed[1].Load())
		}
	})
}

// A gRPC call that was shed has a delay for its retry.
func TestShedCallsHaveARetryDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls, "overload.limit.max", "1", "overload.limit.min", "1", "overload.limit.initial", "1")
		w.grpcOrigin("calls", "calls-1")
		c := w.grpcClient()
		var last atomic.Pointer[error]
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := c.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("sleep"),
					new(wrapperspb.StringValue)); err != nil {
					last.Store(&err)
				}
			})
		}
		all.Wait()
		if last.Load() == nil {
			t.Fatal("no call was shed")
		}
		err := errs.FromRPC(*last.Load())
		if !errors.Is(err, errs.Exhausted) || errs.RetryAfter(err) < 500*time.Millisecond {
			t.Errorf("a call that was shed got %v, retry in %v", err, errs.RetryAfter(err))
		}
	})
}
