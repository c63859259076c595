package overload_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/platform/overload"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var all = []overload.Criticality{overload.CriticalPlus, overload.Critical, overload.SheddablePlus, overload.Sheddable}

func TestNames(t *testing.T) {
	for _, c := range all {
		if got, err := overload.Parse(c.String()); err != nil || got != c {
			t.Errorf("%s is read as %v, %v", c, got, err)
		}
	}
	if c, err := overload.Parse(""); err != nil || c != overload.Critical {
		t.Errorf("no name is %v, %v", c, err)
	}
	if _, err := overload.Parse("critical"); err == nil || !strings.Contains(err.Error(), "SHEDDABLE_PLUS") {
		t.Errorf("a wrong name: %v, want the right ones", err)
	}
}

func TestBaggage(t *testing.T) {
	for _, c := range all {
		var lines []string
		if b := c.Baggage(); b != "" {
			lines = []string{b}
		}
		if got := overload.FromBaggage(lines); got != c {
			t.Errorf("%s arrives as %s", c, got)
		}
	}
	for _, c := range []struct {
		lines []string
		want  overload.Criticality
	}{
		{nil, overload.Critical},
		{[]string{"user=1, bijou.criticality = SHEDDABLE ;x=y , z=2"}, overload.Sheddable},
		{[]string{"user=1", "bijou.criticality=CRITICAL_PLUS"}, overload.CriticalPlus},
		{[]string{"bijou.criticality=SHEDDABLE,bijou.criticality=CRITICAL_PLUS"}, overload.Sheddable},
		{[]string{"bijou.criticality=highest"}, overload.Critical},
		{[]string{"bijou.criticality"}, overload.Critical},
		{[]string{"xbijou.criticality=SHEDDABLE"}, overload.Critical},
		{[]string{",,=,;"}, overload.Critical},
	} {
		if got := overload.FromBaggage(c.lines); got != c.want {
			t.Errorf("%q: %s, want %s", c.lines, got, c.want)
		}
	}
}

func FuzzBaggage(f *testing.F) {
	for _, seed := range []string{
		"", "bijou.criticality=SHEDDABLE", "a=b;c,bijou.criticality=CRITICAL_PLUS;p", "bijou.criticality=;=,",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c := overload.FromBaggage([]string{line})
		if c != overload.Critical && !strings.Contains(line, c.String()) {
			t.Errorf("%q is %s", line, c)
		}
	})
}

func TestMiddlewareAndContext(t *testing.T) {
	var got overload.Criticality
	h := overload.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = overload.Of(r.Context())
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got != overload.Critical {
		t.Errorf("a request without baggage is %s", got)
	}
	r.Header.Set("Baggage", overload.Sheddable.Baggage())
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got != overload.Sheddable {
		t.Errorf("a sheddable request is %s", got)
	}
	ctx := overload.With(overload.With(context.Background(), overload.Sheddable), overload.Critical)
	if c := overload.Of(ctx); c != overload.Critical {
		t.Errorf("the later mark must win, got %s", c)
	}
}

// fill takes n places and returns how many were given.
func fill(l *overload.Limiter, c overload.Criticality, n int) (given int) {
	for range n {
		if _, ok := l.Acquire("x", c); ok {
			given++
		}
	}
	return given
}

func TestTheOrderOfShedding(t *testing.T) {
	for _, c := range []struct {
		c         overload.Criticality
		from, all int // of a limit of 100: when the first and when the last is shed
	}{
		{overload.Sheddable, 50, 70},
		{overload.SheddablePlus, 69, 75},
		{overload.Critical, 110, 110},
		{overload.CriticalPlus, 120, 120},
	} {
		l := overload.New(overload.Options{}).Limiter("x")
		first, taken := 0, 0
		for range 2000 {
			if _, ok := l.Acquire("x", c.c); ok {
				taken++
			} else if first == 0 {
				first = taken
			}
		}
		if first < c.from || taken > c.all {
			t.Errorf("%s: the first was shed with %d in flight, the last with %d; want %d and %d",
				c.c, first, taken, c.from, c.all)
		}
	}
}

func TestSettingsAreLive(t *testing.T) {
	set := config.Static(map[string]string{"overload.limit.max": "30", "overload.limit.min": "1"})
	l := overload.New(overload.Options{Config: set}).Limiter("x")
	put := func(name, value string) {
		t.Helper()
		if err := set.Put(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if n := fill(l, overload.Critical, 100); n != 35 {
		t.Errorf("with a limit of 30 there are %d in flight, want 35", n)
	}
	put("overload.limit.max", "60")
	if n := fill(l, overload.Critical, 100); n != 32 {
		t.Errorf("with a limit of 60 there are %d more, want 32", n)
	}
	put("overload.enabled", "false")
	if n := fill(l, overload.Sheddable, 1000); n != 1000 {
		t.Errorf("switched off it admits %d of 1000", n)
	}
	for range 100 {
		if d := l.RetryAfter(); d < 500*time.Millisecond || d > 1500*time.Millisecond {
			t.Fatalf("RetryAfter = %v, want 500ms to 1.5s", d)
		}
	}
}

// Requests of different kinds take different times; a change of the mix is no slowdown.
func TestAChangeOfTheMixIsNoSlowdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := overload.New(overload.Options{}).Limiter("x")
		send := func(kind string, took time.Duration, n int) {
			for range n {
				p, ok := l.Acquire(kind, overload.Critical)
				if !ok {
					t.Fatalf("%s was shed", kind)
				}
				time.Sleep(took)
				p.Done(overload.Success)
			}
		}
		for range 20 {
			send("slow", 400*time.Millisecond, 5)
			send("fast", 25*time.Millisecond, 100)
		}
		before := l.Limit()
		for range 20 {
			send("slow", 400*time.Millisecond, 50)
		}
		if l.Limit() < before {
			t.Errorf("the limit went from %.0f to %.0f: %s", before, l.Limit(), l.State().Why)
		}
	})
}

func TestMetricsAndState(t *testing.T) {
	reg := prometheus.NewRegistry()
	settings := config.Static(map[string]string{"overload.limit.max": "20", "overload.limit.min": "1"})
	set := overload.New(overload.Options{Metrics: reg, Config: settings})
	l := set.Limiter("grpc")
	fill(l, overload.Sheddable, 100)
	p, ok := l.Acquire("x", overload.CriticalPlus)
	if !ok {
		t.Fatal("CRITICAL_PLUS was shed")
	}
	p.Done(overload.Success)
	const wantMetrics = `# HELP bijou_overload_shed_total Requests that were refused for overload, by criticality.
# TYPE bijou_overload_shed_total counter
bijou_overload_shed_total{criticality="CRITICAL",limiter="grpc"} 0
bijou_overload_shed_total{criticality="CRITICAL_PLUS",limiter="grpc"} 0
bijou_overload_shed_total{criticality="SHEDDABLE",limiter="grpc"} %d
bijou_overload_shed_total{criticality="SHEDDABLE_PLUS",limiter="grpc"} 0
`
	st := l.State()
	if sum := st.Shed["SHEDDABLE"] + st.Admitted["SHEDDABLE"]; sum != 100 {
		t.Errorf("%d SHEDDABLE requests were shed or admitted, want 100", sum)
	}
	if n := st.Admitted["CRITICAL_PLUS"]; n != 1 {
		t.Errorf("%d CRITICAL_PLUS requests were admitted, want 1", n)
	}
	if uint64(st.InFlight) != st.Admitted["SHEDDABLE"] || st.Limit != 20 {
		t.Errorf("InFlight %d and Limit %v, want %d and 20", st.InFlight, st.Limit, st.Admitted["SHEDDABLE"])
	}
	metrics := strings.NewReader(fmt.Sprintf(wantMetrics, st.Shed["SHEDDABLE"]))
	if err := testutil.GatherAndCompare(reg, metrics, "bijou_overload_shed_total"); err != nil {
		t.Error(err)
	}
	rec := httptest.NewRecorder()
	set.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/overload", nil))
	var page struct{ Limiters []overload.State }
	err := json.Unmarshal(rec.Body.Bytes(), &page)
	if err != nil || len(page.Limiters) != 1 || page.Limiters[0].Name != "grpc" {
		t.Errorf("the page is %s, %v", rec.Body, err)
	}
	httpapitest.Check(t, set.Handler(), http.MethodGet, "/overload", "")
	set.Remove("grpc")
	if n, err := testutil.GatherAndCount(reg, "bijou_overload_limit"); err != nil || n != 0 {
		t.Errorf("a limiter that was removed still counts: %d, %v", n, err)
	}
}

func Example() {
	limiter := overload.New(overload.Options{}).Limiter("http")
	ctx := overload.With(context.Background(), overload.Sheddable) // the edge says so
	permit, ok := limiter.Acquire("GET /films", overload.Of(ctx))
	if !ok {
		fmt.Println("come back in", limiter.RetryAfter())
		return
	}
	permit.Done(overload.Success)
	fmt.Println(overload.Of(ctx), overload.Of(ctx).Baggage())
	// Output: SHEDDABLE bijou.criticality=SHEDDABLE
}

func BenchmarkAcquire(b *testing.B) {
	l := overload.New(overload.Options{}).Limiter("x")
	b.Run("admitted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, _ := l.Acquire("x", overload.Critical)
			p.Done(overload.Success)
		}
	})
	b.Run("admitted/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p, _ := l.Acquire("x", overload.Critical)
				p.Done(overload.Success)
			}
		})
	})
	fill(l, overload.Critical, 200)
	b.Run("shed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.Acquire("x", overload.Sheddable)
		}
	})
}
