package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"bijou.dev/cmd/bijou/stack"
	"bijou.dev/platform/pace"

	"golang.org/x/sync/errgroup"
)

const (
	edgeService, edgePort = "gateway", 8080
	audience              = "audience-1"
	settle                = 10 * time.Second // before memory is measured
	megabyte              = 1_000_000
)

// benchStack starts the whole stack a few times, and measures its memory the last time.
func benchStack(ctx context.Context, r *report) error {
	bin := filepath.Join(stack.DefaultDir(r.compose), "bench", "bin")
	fmt.Fprintln(r.out, "  (building the programs first)")
	if err := stack.Build(ctx, r.compose, bin, nil); err != nil {
		return err
	}
	var page, home, healthy []float64
	for n := range min(r.rounds, 3) {
		err := r.oneStack(ctx, bin, func(s *stack.Stack, began time.Time) error {
			t, err := startTimes(ctx, s, began)
			if err != nil {
				return err
			}
			page, home, healthy = append(page, t.page.Seconds()), append(home, t.home.Seconds()), append(healthy,
				t.healthy.Seconds())
			if n < min(r.rounds, 3)-1 {
				return nil
			}
			r.add("first page at the edge", figure{seconds, page})
			r.add("first home page without fallbacks", figure{seconds, home})
			r.add("every process healthy", figure{seconds, healthy})
			return r.memory(ctx, s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// times are durations from the start of a stack.
type times struct{ page, home, healthy time.Duration }

func startTimes(ctx context.Context, s *stack.Stack, began time.Time) (t times, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		// Not more often: twenty failures open the circuit of the edge, which would delay the first page.
		err := until(ctx, 100*time.Millisecond, "a page at the edge",
			func(ctx context.Context) error { return get(ctx, edgeURL(s)+"/", nil) })
		if err != nil {
			return err
		}
		t.page = time.Since(began)
		err = until(ctx, 100*time.Millisecond, "a home page without fallbacks",
			func(ctx context.Context) error { return homeWithoutFallbacks(ctx, s) })
		t.home = time.Since(began)
		return err
	})
	g.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		err := s.Wait(ctx)
		t.healthy = time.Since(began)
		return err
	})
	return t, g.Wait()
}

// oneStack runs a stack in an empty folder while fn runs.
func (r *report) oneStack(ctx context.Context, bin string, fn func(s *stack.Stack, began time.Time) error) (err error) {
	dir, err := os.MkdirTemp("", "bijou-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	began := time.Now()
	s, err := stack.Start(ctx, stack.Options{File: r.compose, Dir: dir, Bin: bin, RandomPorts: true})
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if stopped := s.Stop(stop); err == nil && stopped != nil {
			err = fmt.Errorf("stopping the stack: %w", stopped)
		}
	}()
	return fn(s, began)
}

// memory reports the resident memory without the audience, and with it.
func (r *report) memory(ctx context.Context, s *stack.Stack) error {
	if err := s.Hold(ctx, audience); err != nil {
		return err
	}
	if !pace.Sleep(ctx, settle) {
		return ctx.Err()
	}
	r.add("idle", resident(s)...)
	if err := s.Restart(ctx, audience); err != nil {
		return err
	}
	if !pace.Sleep(ctx, 2*settle) {
		return ctx.Err()
	}
	r.add("with the audience", resident(s)...)
	return nil
}

func resident(s *stack.Stack) []figure {
	var sum int64
	n, top, topName := 0, int64(0), ""
	for _, i := range s.Instances() {
		if i.PID == 0 {
			continue
		}
		n++
		sum += i.Memory
		if i.Memory > top {
			top, topName = i.Memory, i.Name
		}
	}
	return []figure{
		{"MB resident", []float64{float64(sum / megabyte)}},
		{"processes", []float64{float64(n)}},
		{"MB in the largest, " + topName, []float64{float64(top / megabyte)}},
	}
}

func edgeURL(s *stack.Stack) string { return "http://" + s.Addr(edgeService, edgePort) }

// homeWithoutFallbacks gets a home page. The error names the part of it that is a fallback.
func homeWithoutFallbacks(ctx context.Context, s *stack.Stack) error {
	var all struct{ Profiles []struct{ ID string } }
	if err := get(ctx, edgeURL(s)+"/api/profiles", &all); err != nil {
		return err
	}
	if len(all.Profiles) == 0 {
		return errors.New("there are no profiles")
	}
	var home struct {
		Rows []struct {
			Kind, Note string
			Cards      []json.RawMessage
		}
		Degraded []string
	}
	if err := get(ctx, edgeURL(s)+"/api/home?profile="+all.Profiles[0].ID, &home); err != nil {
		return err
	}
	if len(home.Degraded) > 0 {
		return fmt.Errorf("the home page has fallbacks for %v", home.Degraded)
	}
	for _, r := range home.Rows {
		if r.Kind == "recommended" && r.Note == "" && len(r.Cards) > 0 {
			return nil
		}
	}
	return errors.New("the home page has no recommendations")
}

// get gets a URL and decodes the JSON of the response into v, unless v is nil. A status other than 200 is an error.
func get(ctx context.Context, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	if v == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
