package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/platform/errs"
)

type servicesShowCmd struct {
	Instance string `arg:"" help:"The instance, as \"bijou services\" names it."`
}

// shownInstance is what --json prints: what the registry knows of the instance, and what the instance reports itself.
type shownInstance struct {
	Service   string            `json:"service"`
	ID        string            `json:"id"`
	Status    string            `json:"status"`
	Zone      string            `json:"zone"`
	Version   string            `json:"version"`
	Started   time.Time         `json:"started"`
	Endpoints map[string]string `json:"endpoints"`
	Ready     bool              `json:"ready"`
	Checks    []shownCheck      `json:"checks"`
	Figures   map[string]string `json:"figures"`
}

type shownCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Reason string `json:"reason,omitempty"`
}

// figures maps the name of each metric that is shown to its label.
var figures = map[string]string{
	"bijou_config_revision":         "settings revision",
	"process_resident_memory_bytes": "memory in bytes",
	"go_goroutines":                 "goroutines",
}

// Run is `bijou services show`.
func (c *servicesShowCmd) Run(ctx context.Context, e *env) error {
	i, err := e.instance(ctx, c.Instance)
	if err != nil {
		return err
	}
	s := shownInstance{
		Service: i.GetService(), ID: i.GetId(), Status: strings.TrimPrefix(i.GetStatus().String(),
			"STATUS_"), Zone: i.GetZone(),
		Version: i.GetVersion(), Started: i.GetStarted().AsTime(), Endpoints: i.GetEndpoints(),
		Figures: map[string]string{},
	}
	addr := i.GetEndpoints()["admin"]
	ready, err := askAdmin(ctx, http.MethodGet, addr, "/readyz", nil)
	if err != nil {
		return err
	}
	var report struct{ Checks []shownCheck }
	if err := json.Unmarshal(ready.body, &report); err != nil {
		return fmt.Errorf("reading the readiness of %s: %w", c.Instance, err)
	}
	s.Ready, s.Checks = ready.status == http.StatusOK, report.Checks
	metrics, err := askAdmin(ctx, http.MethodGet, addr, "/metrics", nil)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(metrics.body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && figures[name] != "" {
			s.Figures[figures[name]] = value
		}
	}
	if e.program.JSON {
		return e.printJSON(s)
	}
	_ = e.printf("%s is %s, zone %s, version %s, up for %v\n", e.style.Name(s.Service, s.ID), e.instanceStatus(i),
		s.Zone, s.Version, time.Since(s.Started).Round(time.Second))
	for _, name := range []string{"settings revision", "memory in bytes", "goroutines"} {
		_ = e.printf("%s: %s\n", name, s.Figures[name])
	}
	t := term.Table{Header: []string{"CHECK", "STATE", "NEEDED", "REASON"}}
	for _, k := range s.Checks {
		state, needed := e.style.Green("good"), "no"
		if !k.OK {
			state = e.style.Red("not good")
		}
		if k.Needed {
			needed = "yes"
		}
		t.Add(k.Name, state, needed, k.Reason)
	}
	return e.table(&t)
}

type servicesKillCmd struct {
	overrideFlags
	For time.Duration `help:"Keep it down for this time, at most 2m, after its supervisor has started it again."`
}

// Validate refuses a negative --for.
func (c *servicesKillCmd) Validate() error { return notNegative("--for", c.For) }

// Run is `bijou services kill`.
func (c *servicesKillCmd) Run(ctx context.Context, e *env) error {
	if err := checkReason(c.Reason); err != nil {
		return err
	}
	i, err := e.instance(ctx, c.Instance)
	if err != nil {
		return err
	}
	author := publishFlags{Author: c.Author}
	order := map[string]string{"author": author.author(e), "reason": c.Reason}
	if c.For > 0 {
		order["for"] = c.For.String()
	}
	body, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("killing %s: %w", c.Instance, err)
	}
	answer, err := askAdmin(ctx, http.MethodPost, i.GetEndpoints()["admin"], "/kill", body)
	if err != nil {
		return err
	}
	if answer.status == http.StatusNotFound || answer.status == http.StatusMethodNotAllowed {
		return errs.Errorf(errs.Precondition, "killing %s: it does not allow it; it must run with -allow-kill",
			c.Instance)
	}
	if err := answer.problem; err != nil {
		if doing := "killing " + c.Instance; !strings.HasPrefix(err.Error(), doing) { // as a proxy or a router answers
			return fmt.Errorf("%s: %w", doing, err)
		}
		return err
	}
	err = e.printf("killed %s\n", c.Instance)
	return err
}

// adminAnswer is the answer of an admin port.
type adminAnswer struct {
	status  int
	body    []byte
	problem error // of an answer with status 400 or more
}

// askAdmin sends a request to the admin port of an instance.
func askAdmin(ctx context.Context, method, addr, path string, body []byte) (adminAnswer, error) {
	if addr == "" {
		return adminAnswer{}, errs.Errorf(errs.Precondition, "the instance has no admin page")
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return adminAnswer{}, fmt.Errorf("asking the admin page at %s: %w", addr, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return adminAnswer{}, errs.Errorf(errs.Unavailable, "asking the admin page at %s: %w", addr, err)
	}
	defer resp.Body.Close()
	answer := adminAnswer{status: resp.StatusCode}
	if answer.body, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20)); err != nil {
		return adminAnswer{}, errs.Errorf(errs.Unavailable, "asking the admin page at %s: %w", addr, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer.body))
	answer.problem = errs.FromResponse(resp)
	return answer, nil
}
