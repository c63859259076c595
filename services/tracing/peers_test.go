package tracing_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"
)

// replica is a replica that answers as a test says. It counts what it was asked.
type replica struct {
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []string
}

func (p *replica) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Header.Get("Bijou-Internal-Hop")+" asks "+r.URL.Path)
	answer := p.answer
	p.mu.Unlock()
	answer(w, r)
}

func (p *replica) set(answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer, p.asked = answer, nil
}

func (p *replica) questions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// startWithReplica starts a store with one trace, a1, and another replica with the name "b".
func startWithReplica(t *testing.T, n *memnet.Network) (*server, *replica) {
	t.Helper()
	s, b := start(t, n, "a", onVolume(tracing.Options{})), &replica{}
	l, err := n.Listen("tcp", "b:9411")
	if err != nil {
		t.Fatal(err)
	}
	serving := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	go func() { _ = serving.Serve(l) }()
	t.Cleanup(func() { _ = serving.Close() })
	s.known.Put("tracing", []discovery.Instance{{
		Service: "tracing", ID: "b", Status: discovery.Up, Endpoints: map[string]string{"zipkin": "b:9411"},
	}})
	s.post(film("a1", time.Now().Add(-time.Minute), false))
	return s, b
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// silent does not answer.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// stuck writes the beginning of an answer.
func stuck(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, `[`)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// When another replica answers wrongly or not at all, a query answers in time with what its own store has, and names
// the replica whose part is missing.
func TestReplicaThatDoesNotAnswer(t *testing.T) {
	now := func() string { return fmt.Sprintf("endTs=%d", time.Now().UnixMilli()) }
	for name, answer := range map[string]http.HandlerFunc{
		"503":            text(503, "busy"),
		"500":            text(500, ""),
		"text":           text(200, "hello"),
		"cut JSON":       text(200, `[["`),
		"a wrong type":   text(200, `{"a":1}`),
		"nothing":        text(200, ""),
		"a wrong span":   text(200, `[[{"traceId":"xyz"}]]`),
		"silence":        silent,
		"half an answer": stuck,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := startWithReplica(t, memnet.New())
				for _, path := range []string{
					"/api/v2/services", "/api/v2/traces?", "/api/v2/trace/a1", "/api/v2/traceMany?traceIds=a1",
					"/api/v2/dependencies?" + now(),
				} {
					b.set(answer)
					time.Sleep(6 * time.Second) // a replica that does not answer is not asked again for 5 s
					began := time.Now()
					var parts []any
					resp := s.get(path, &parts)
					if missing := resp.Header.Get("Bijou-Peers-Missing"); missing != "b" || len(parts) == 0 {
						t.Errorf("GET %s: missing %q and %d parts, want b missing and what the own store has", path, missing, len(parts))
					}
					if took := time.Since(began); took > 15*time.Second {
						t.Errorf("GET %s takes %v, want at most the 10 s of a query", path, took)
					}
					if len(b.questions()) == 0 {
						t.Errorf("GET %s: the replica was not asked", path)
					}
				}
			})
		})
	}
}

// A replica that does not answer within 2 s is not asked for 5 s, so that not every query waits for it. Then it is
// asked again.
func TestReplicaIsNotAskedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := startWithReplica(t, memnet.New())
		b.set(silent)
		query := func() (took time.Duration, missing string) {
			began := time.Now()
			var names []string
			resp := s.get("/api/v2/services", &names)
			return time.Since(began), resp.Header.Get("Bijou-Peers-Missing")
		}
		if took, missing := query(); took != 2*time.Second || missing != "b" {
			t.Errorf("the first query takes %v, missing %q; want 2 s and b", took, missing)
		}
		b.set(text(200, `["mailer"]`))
		time.Sleep(5*time.Second - time.Millisecond)
		if took, missing := query(); took != 0 || missing != "b" || len(b.questions()) != 0 {
			t.Errorf("within 5 s a query takes %v, missing %q, and the replica is asked %d times; want 0 s, b and none",
				took, missing, len(b.questions()))
		}
		time.Sleep(time.Millisecond)
		if took, missing := query(); took != 0 || missing != "" || len(b.questions()) != 1 {
			t.Errorf("after 5 s a query takes %v, missing %q, and the replica is asked %d times; want 0 s, none and once",
				took, missing, len(b.questions()))
		}
		// An answer that is an error comes at once, so the replica is asked each time.
		b.set(text(503, ""))
		for range 3 {
			query()
		}
		if n := len(b.questions()); n != 3 {
			t.Errorf("a replica that refuses is asked %d times by 3 queries, want 3", n)
		}
	})
}

// A question that comes from a replica is answered from the own store: else two replicas would ask each other.
func TestQuestionOfAReplicaGoesNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := startWithReplica(t, memnet.New())
		b.set(text(200, `[]`))
		for _, path := range []string{
			"/api/v2/services", "/api/v2/traces", "/api/v2/trace/a1",
			fmt.Sprintf("/api/v2/dependencies?endTs=%d", time.Now().UnixMilli()),
		} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://a:9411"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Bijou-Internal-Hop", "b")
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("GET %s: %s", path, resp.Status)
			}
		}
		if asked := b.questions(); len(asked) != 0 {
			t.Errorf("the other replica is asked %q, want nothing", asked)
		}
		var services []string
		s.get("/api/v2/services", &services)
		if asked, want := b.questions(), []string{"a asks /api/v2/services"}; !slices.Equal(asked, want) {
			t.Errorf("the other replica is asked %q, want %q", asked, want)
		}
	})
}

// What several replicas have is joined: names once, spans of a trace by the lower half of its id, and the newest traces
// up to the limit.
func TestAnswersAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := startWithReplica(t, memnet.New())
		at := time.Now().Add(-time.Minute)
		const long = "463ac35c9f6413ad00000000000000a1" // of the same trace
		mail := strings.TrimSuffix(strings.TrimPrefix(one(long, "9", "3", "mailer", at.Add(time.Second)), "["), "]")
		newer := film("b1", at.Add(30*time.Second), false)
		older := film("b2", at.Add(-30*time.Second), false)
		b.set(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/api/v2/services":
				_, _ = io.WriteString(w, `["web","mailer","WEB"]`)
			case "/api/v2/traces":
				_, _ = fmt.Fprintf(w, "[%s,%s]", older, newer)
			case "/api/v2/traceMany":
				_, _ = fmt.Fprintf(w, "[[%s]]", mail)
			case "/internal/walk":
				_, _ = fmt.Fprintf(w, "[%s]\n%s\n[]\n", mail, strings.ReplaceAll(newer, "\n", ""))
			}
		})
		var names []string
		s.get("/api/v2/services", &names)
		if want := []string{"WEB", "catalog", "mailer", "web"}; !slices.Equal(names, want) {
			t.Errorf("the services are %q, want %q", names, want)
		}
		if got, want := s.ids(""), []string{"b1", long, "b2"}; !slices.Equal(got, want) {
			t.Errorf("a search finds %q, want %q", got, want)
		}
		if got, want := s.ids("limit=2"), []string{"b1", long}; !slices.Equal(got, want) {
			t.Errorf("a search of two traces finds %q, want %q", got, want)
		}
		var spans []struct{ TraceID string }
		if s.get("/api/v2/trace/a1", &spans); len(spans) != 4 || spans[0].TraceID != long {
			t.Errorf("the trace is %v, want 4 spans with the long id", spans)
		}
		var links []struct{ Parent, Child string }
		resp := s.get(fmt.Sprintf("/api/v2/dependencies?endTs=%d", time.Now().UnixMilli()), &links)
		want := []struct{ Parent, Child string }{{"catalog", "mailer"}, {"web", "catalog"}}
		if !slices.Equal(links, want) || resp.Header.Get("Bijou-Peers-Missing") != "" {
			t.Errorf("the links are %v, want %v; missing %q", links, want, resp.Header.Get("Bijou-Peers-Missing"))
		}
		b.set(text(404, ""))
		if resp := s.get("/api/v2/trace/a1", &spans); len(spans) != 3 || resp.Header.Get("Bijou-Peers-Missing") != "" {
			t.Errorf("without a part of the replica the trace has %d spans, missing %q; want 3 and none missing",
				len(spans), resp.Header.Get("Bijou-Peers-Missing"))
		}
	})
}

// The walk for another replica has all traces of a time without their details, and says when it is whole.
func TestWalkForAReplica(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-time.Hour)
	s.post(film("a2", at, true))
	s.post(film("a1", at, false))
	resp, body := s.do("GET", "9411", "/internal/walk?"+around(at), "", "", nil)
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if resp.StatusCode != 200 || len(lines) != 3 || lines[2] != "[]" {
		t.Fatalf("the walk is %s %q, want two traces and an empty list at the end", resp.Status, body)
	}
	for i, trace := range []string{"a1", "a2"} {
		if n := strings.Count(lines[i], `"traceId":"00000000000000`+trace+`"`); n != 3 {
			t.Errorf("line %d has %d spans of the trace %s, want 3: %s", i+1, n, trace, lines[i])
		}
	}
	if strings.Contains(body, "http.method") || strings.Count(body, `"tags"`) != 1 || !strings.Contains(lines[1], "error") {
		t.Errorf("the walk %q has other tags than the error of the second trace", body)
	}
}
