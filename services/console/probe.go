package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/route"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	// probeLimit bounds one round of questions to one instance.
	probeLimit = 900 * time.Millisecond
	// probesAtOnce bounds the instances asked at the same time.
	probesAtOnce = 32
)

// probe is what an instance's admin page said, and when it stopped saying anything.
type probe struct {
	ok        bool
	problem   string
	since     time.Time // when ok last changed
	checks    []check
	balancers map[string][]route.EndpointState // service -> its instances, as this one sees them
	memory    float64
	threads   float64
	revision  float64
	late      bool // the last round had no answer in time
	round     int
}

// check is one line of /readyz.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Reason string `json:"reason,omitempty"`
}

// shownAdmin is what an instance says of itself.
type shownAdmin struct {
	OK         bool      `json:"ok"`
	Problem    string    `json:"problem,omitempty"`
	Since      time.Time `json:"since"`
	Checks     []check   `json:"checks,omitempty"`
	Revision   int64     `json:"revision"`
	Memory     int64     `json:"memoryBytes"`
	Goroutines int64     `json:"goroutines"`
}

func (p *probe) shown() *shownAdmin {
	checks := slices.Clone(p.checks)
	for i, k := range checks {
		checks[i].Reason = sentenceOf("what it needs", k.Reason)
	}
	return &shownAdmin{
		OK: p.ok, Problem: p.problem, Since: p.since, Checks: checks,
		Revision: int64(p.revision), Memory: int64(p.memory), Goroutines: int64(p.threads),
	}
}

// askInstances asks every instance's admin page.
func (c *Console) askInstances(ctx context.Context) {
	list, _ := c.known()
	places := make(chan struct{}, probesAtOnce)
	var asking sync.WaitGroup
	present := map[instanceKey]bool{}
	for _, in := range list.GetInstances() {
		addr := in.Endpoints["admin"]
		if addr == "" {
			continue
		}
		key := instanceKey{in.Service, in.Id}
		present[key] = true
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			c.askInstance(ctx, key, addr)
		})
	}
	asking.Wait()
	c.forgetOthers(present)
	c.reportSettingsStore()
}

// forgetOthers removes the probes of instances that are no longer known.
func (c *Console) forgetOthers(present map[instanceKey]bool) {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	for key := range c.seen.probes {
		if !present[key] {
			delete(c.seen.probes, key)
		}
	}
}

// askInstance asks whether one is ready, and in turns for its balancers and its metrics, which change less or cost
// more.
func (c *Console) askInstance(ctx context.Context, key instanceKey, addr string) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	c.seen.mu.Lock()
	var next probe
	if old := c.seen.probes[key]; old != nil {
		next = *old
	}
	c.seen.mu.Unlock()
	body, err := c.getAdmin(ctx, addr, "/readyz")
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	was := next.ok
	// One late answer is a busy machine. A refused connection is a process that is gone.
	if slow := isTimeout(err); slow && was && !next.late {
		next.late = true
		c.seen.mu.Lock()
		defer c.seen.mu.Unlock()
		c.seen.probes[key] = &next
		return
	}
	next.late = false
	if next.ok = err == nil; err != nil {
		next.problem = sentence("it", err)
	} else {
		next.problem = ""
		var ready struct{ Checks []check }
		if json.Unmarshal(body, &ready) == nil {
			next.checks = ready.Checks
		}
		c.askMore(ctx, &next, key.service, addr)
	}
	if next.since.IsZero() || was != next.ok {
		next.since = time.Now().UTC()
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.seen.probes[key] = &next
}

func (c *Console) askMore(ctx context.Context, next *probe, service, addr string) {
	next.round++
	if body, err := c.getAdmin(ctx, addr, "/balancers"); err == nil {
		var balancers map[string][]route.EndpointState
		if json.Unmarshal(body, &balancers) == nil {
			next.balancers = balancers
		}
	}
	if service == "gateway" {
		c.addOrigins(ctx, next, addr)
	}
	if next.round%2 == 1 {
		if body, err := c.getAdmin(ctx, addr, "/metrics"); err == nil {
			next.read(body)
		}
	}
}

// addOrigins adds what the edge's own balancers say, which stand in its table.
func (c *Console) addOrigins(ctx context.Context, next *probe, addr string) {
	body, err := c.getAdmin(ctx, addr, "/routes")
	var table struct {
		Origins []struct {
			Service   string
			Instances []route.EndpointState
		}
	}
	if err != nil || json.Unmarshal(body, &table) != nil {
		return
	}
	all := map[string][]route.EndpointState{}
	for service, list := range next.balancers {
		all[service] = list
	}
	for _, o := range table.Origins {
		all[o.Service] = append(all[o.Service], o.Instances...)
	}
	next.balancers = all
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// read takes the figures that the page shows from a page of metrics.
func (p *probe) read(text []byte) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return
	}
	value := func(name string) float64 {
		if ms := families[name].GetMetric(); len(ms) > 0 {
			return ms[0].GetGauge().GetValue()
		}
		return 0
	}
	p.memory = value("process_resident_memory_bytes")
	p.threads, p.revision = value("go_goroutines"), value("bijou_config_revision")
}

// getAdmin reads an admin page, up to 4 MiB of it.
func (c *Console) getAdmin(ctx context.Context, addr, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	// A process that is not ready says so with 503, and why.
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		err = errs.Errorf(errs.Unavailable, "%s answered %s", path, resp.Status)
	}
	return body, err
}
