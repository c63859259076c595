package tracing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/service"
	"bijou.dev/services/tracing/internal/span"
)

const (
	// hopHeader marks a query that another replica sends. It is answered from this replica's store only.
	hopHeader = "Bijou-Internal-Hop"
	// missingHeader names the replicas that did not answer, separated by commas. What they have is missing.
	missingHeader = "Bijou-Peers-Missing"
	// incompleteHeader is "true" when an answer was cut short by a limit of work.
	incompleteHeader = "Bijou-Incomplete"
)

const (
	peerTimeout = 2 * time.Second
	// restTimeout is how long a replica that did not answer is not asked again, so that not every query waits for it.
	restTimeout = 5 * time.Second
	maxAnswer   = 64 << 20 // bytes of a peer's answer that is held in memory
)

// peers are the other replicas.
type peers struct {
	discovery.Peers

	client *http.Client

	mu   sync.Mutex
	rest map[string]time.Time // replica -> when to ask it again
}

func newPeers(setup *service.Setup) *peers {
	t := &http.Transport{
		DialContext: setup.DialContext, ResponseHeaderTimeout: peerTimeout, MaxIdleConnsPerHost: 4,
		IdleConnTimeout: time.Minute,
	}
	setup.OnStop("connections to peers", func(context.Context) error {
		t.CloseIdleConnections()
		return nil
	})
	return &peers{
		Peers: discovery.Peers{
			Directory: setup.Discovery(), Service: setup.Name(), Self: setup.Instance(), Endpoint: "zipkin",
		},
		client: &http.Client{Transport: t},
		rest:   make(map[string]time.Time),
	}
}

// others returns the replicas to ask: none for a query that another replica sends.
func (p *peers) others(r *http.Request) []discovery.Peer {
	if r.Header.Get(hopHeader) != "" {
		return nil
	}
	return p.List()
}

// errResting is returned for a replica that did not answer within the last restTimeout.
var errResting = errors.New("it did not answer lately")

// open asks one replica. Its error is io.EOF if the replica answers 404: it has nothing.
func (p *peers) open(ctx context.Context, to discovery.Peer, path string) (body io.ReadCloser, err error) {
	p.mu.Lock()
	resting := time.Now().Before(p.rest[to.ID])
	p.mu.Unlock()
	if resting {
		return nil, errResting
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.Addr+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(hopHeader, p.Self)
	resp, err := p.client.Do(req)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			p.mu.Lock()
			p.rest[to.ID] = time.Now().Add(restTimeout)
			p.mu.Unlock()
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("asking %s: %s", to.ID, resp.Status)
	}
	return resp.Body, nil
}

// gather sends one query to several replicas at once. Those that do not answer are added to missing.
func gather[T any](ctx context.Context, p *peers, to []discovery.Peer, path string, missing *missing) []T {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var parts []T
	for _, t := range to {
		wg.Go(func() {
			body, err := p.open(ctx, t, path)
			if errors.Is(err, io.EOF) {
				return
			}
			var part T
			if err == nil {
				err = json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&part)
				_ = body.Close()
			}
			if err != nil {
				missing.add(t.ID)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			parts = append(parts, part)
		})
	}
	wg.Wait()
	return parts
}

// missing collects the ids of replicas that did not answer.
type missing struct {
	mu  sync.Mutex
	ids []string
}

func (m *missing) add(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.ids, id) {
		m.ids = append(m.ids, id)
	}
}

// joinTraces joins parts of traces by id, allowing for ids that were cut to 64 bits, and sorts the newest first.
func joinTraces(parts [][]span.Span) [][]span.Span {
	byLo := make(map[uint64][]span.Span)
	for _, t := range parts {
		if len(t) > 0 {
			byLo[t[0].Trace.Lo] = append(byLo[t[0].Trace.Lo], t...)
		}
	}
	traces := make([][]span.Span, 0, len(byLo))
	for _, spans := range byLo {
		for _, t := range span.Split(spans) {
			traces = append(traces, span.Merge(t))
		}
	}
	slices.SortFunc(traces, func(a, b []span.Span) int {
		return cmp.Or(cmp.Compare(span.Begin(b), span.Begin(a)), cmp.Compare(a[0].Trace.Lo, b[0].Trace.Lo))
	})
	return traces
}
