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
	// probeTimeout bounds all requests of one probe.
	probeTimeout = 900 * time.Millisecond
	// maxProbes bounds the instances that are probed at the same time.
	maxProbes = 32
	// maxAdminPage bounds what is read of an admin page, in bytes.
	maxAdminPage = 4 << 20
)

// probe is what the admin page of an instance has answered.
type probe struct {
	ok        bool // the admin page answered the last probe
	problem   string
	since     time.Time // when ok last changed
	checks    []check
	balancers map[string][]route.EndpointState // service -> its instances, as this instance sees them
	// Nil: the metrics do not have it, or were not read yet.
	memory, goroutines, revision *int64

	timedOut bool // the last probe timed out, and the one before did not
	count    int  // successful probes
}

// check is one readiness check of an instance.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Reason string `json:"reason,omitempty"`
}

// shownAdmin is what the topic fleet has of an instance's admin page. While OK is false, all but Problem and Since is
// what the page answered last. Revision, Memory and Goroutines are nil while they are unknown.
type shownAdmin struct {
	OK         bool      `json:"ok"`
	Problem    string    `json:"problem,omitempty"`
	Since      time.Time `json:"since"`
	Checks     []check   `json:"checks,omitempty"`
	Revision   *int64    `json:"revision,omitempty"`
	Memory     *int64    `json:"memoryBytes,omitempty"`
	Goroutines *int64    `json:"goroutines,omitempty"`
}

func (p *probe) shown() *shownAdmin {
	checks := slices.Clone(p.checks)
	for i, k := range checks {
		checks[i].Reason = messageOf("what it needs", k.Reason)
	}
	return &shownAdmin{
		OK: p.ok, Problem: p.problem, Since: p.since, Checks: checks,
		Revision: p.revision, Memory: p.memory, Goroutines: p.goroutines,
	}
}

// probeInstances probes the admin pages of all instances.
func (c *Console) probeInstances(ctx context.Context) {
	list, _ := c.currentInstances()
	slots := make(chan struct{}, maxProbes)
	var probes sync.WaitGroup
	present := map[instanceKey]bool{}
	for _, in := range list.GetInstances() {
		addr := in.Endpoints["admin"]
		if addr == "" {
			continue
		}
		key := instanceKey{in.Service, in.Id}
		present[key] = true
		slots <- struct{}{}
		probes.Go(func() {
			defer func() { <-slots }()
			c.probeInstance(ctx, key, addr)
		})
	}
	probes.Wait()
	if ctx.Err() != nil {
		return
	}
	c.removeOtherProbes(present)
	c.publishSettingsStore()
}

// removeOtherProbes removes the probes of instances that are not in present.
func (c *Console) removeOtherProbes(present map[instanceKey]bool) {
	c.answers.mu.Lock()
	defer c.answers.mu.Unlock()
	for key := range c.answers.probes {
		if !present[key] {
			delete(c.answers.probes, key)
		}
	}
}

// probeInstance reads /readyz of one instance, and then its other admin pages.
func (c *Console) probeInstance(ctx context.Context, key instanceKey, addr string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c.answers.mu.Lock()
	var next probe
	if old := c.answers.probes[key]; old != nil {
		next = *old
	}
	c.answers.mu.Unlock()
	body, err := c.getAdmin(ctx, addr, "/readyz")
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	wasOK := next.ok
	// A busy machine causes a single timeout. A refused connection means that the process has ended.
	if isNetTimeout(err) && wasOK && !next.timedOut {
		next.timedOut = true
		c.answers.mu.Lock()
		defer c.answers.mu.Unlock()
		c.answers.probes[key] = &next
		return
	}
	next.timedOut = false
	if next.ok = err == nil; err != nil {
		next.problem = message("it", err)
	} else {
		next.problem = ""
		var ready struct{ Checks []check }
		if json.Unmarshal(body, &ready) == nil {
			next.checks = ready.Checks
		}
		c.probeDetails(ctx, &next, key.service, addr)
	}
	if next.since.IsZero() || wasOK != next.ok {
		next.since = time.Now().UTC()
	}
	c.answers.mu.Lock()
	defer c.answers.mu.Unlock()
	c.answers.probes[key] = &next
}

// probeDetails reads the balancers of an instance, and in every second probe its metrics, which cost more. What cannot
// be read keeps its last value.
func (c *Console) probeDetails(ctx context.Context, next *probe, service, addr string) {
	next.count++
	if body, err := c.getAdmin(ctx, addr, "/balancers"); err == nil {
		var balancers map[string][]route.EndpointState
		if json.Unmarshal(body, &balancers) == nil {
			next.balancers = balancers
		}
	}
	if service == "gateway" {
		c.addOrigins(ctx, next, addr)
	}
	if next.count%2 == 1 {
		if body, err := c.getAdmin(ctx, addr, "/metrics"); err == nil {
			next.readMetrics(body)
		}
	}
}

// addOrigins adds the balancers of a gateway, which its page /balancers does not have.
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

func isNetTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// readMetrics reads the values that the page shows from Prometheus text.
func (p *probe) readMetrics(text []byte) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return
	}
	gauge := func(name string) *int64 {
		for _, m := range families[name].GetMetric() {
			if m.Gauge != nil {
				v := int64(m.Gauge.GetValue())
				return &v
			}
		}
		return nil
	}
	p.memory, p.goroutines = gauge("process_resident_memory_bytes"), gauge("go_goroutines")
	p.revision = gauge("bijou_config_revision")
}

// getAdmin reads at most maxAdminPage bytes of an admin page.
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminPage))
	// A process that is not ready answers /readyz with 503 and its checks.
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		err = errs.Errorf(errs.Unavailable, "%s answered %s", path, resp.Status)
	}
	return body, err
}
