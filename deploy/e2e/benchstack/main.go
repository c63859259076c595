// Benchstack runs compose.yaml as containers and measures what it costs: size of the images, time from `up` to the
// first page and to everything healthy, memory and CPU time of an idle stack, of one with its audience, and of one with
// the heavier audience of compose.load.yaml.
//
//	go run ./deploy/e2e/benchstack [-window 30s]    at the top of the repository, as root, on the engine's machine
//
// It prints a table for the README. It fails when an image or the memory is over its budget, or when something is
// missing. Seconds and CPU time are only reported, because they depend on the machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/pace"
)

// Budgets. Memory is resident memory with shared pages counted once. The budgets are above the promised figures,
// because garbage collection makes the memory vary.
const (
	megabyte      = 1_000_000
	imageBudget   = 25 * megabyte
	idleBudget    = 500 * megabyte * 120 / 100
	loadBudget    = 1 << 30
	minContainers = 20
)

// window is how long to wait before a stack is measured, and how long its CPU time is counted.
var window = flag.Duration("window", 30*time.Second,
	"how long to wait before the stack is measured, and how long its CPU time is counted")

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchstack:", err)
		stop()
		os.Exit(1)
	}
}

// bench is one measurement of one stack.
type bench struct {
	project  string
	edge     string
	env      []string
	out, log io.Writer
	over     []error // budgets that were exceeded
}

func run(ctx context.Context, env []string, out, log io.Writer) (err error) {
	port, err := freePort()
	if err != nil {
		return err
	}
	b := &bench{
		project: fmt.Sprintf("bijou-bench-%d", os.Getpid()), edge: fmt.Sprintf("http://127.0.0.1:%d/",
			port), out: out, log: log,
		env: append(env, fmt.Sprint("BIJOU_EDGE_PORT=", port), "BIJOU_CONSOLE_PORT=0", "BIJOU_ZIPKIN_PORT=0",
			"BIJOU_OTLP_PORT=0", "BIJOU_OTLP_HTTP_PORT=0"),
	}
	fmt.Fprintln(log, "building the images")
	if _, err := b.compose(ctx, "build", "--quiet"); err != nil {
		return err
	}
	defer func() {
		_, downErr := b.compose(context.WithoutCancel(ctx), "down", "--volumes")
		err = errors.Join(err, downErr)
	}()
	for _, step := range []func(context.Context) error{b.head, b.images, b.start, b.idle, b.audience, b.load} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return errors.Join(b.over...)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (b *bench) compose(ctx context.Context, args ...string) (string, error) {
	return b.docker(ctx, append([]string{"compose", "--progress", "quiet", "--project-name", b.project}, args...)...)
}

func (b *bench) docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = b.env
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return string(out), nil
}

func (b *bench) row(what, figure, target string) {
	fmt.Fprintf(b.out, "| %s | %s | %s |\n", what, figure, target)
}

func (b *bench) budget(what string, got, most int64) {
	if got > most {
		b.over = append(b.over, fmt.Errorf("%s: %.1f MB is over the budget of %.1f MB", what, mega(got), mega(most)))
	}
}

func mega(bytes int64) float64 { return float64(bytes) / megabyte }

func (b *bench) head(ctx context.Context) error {
	engine, err := b.docker(ctx, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%s, %d CPUs (%s), Docker %s, %s\n\n", time.Now().UTC().Format("2 January 2006"),
		runtime.NumCPU(), processor(), strings.TrimSpace(engine), runtime.Version())
	b.row("What", "Measured", "Target")
	b.row("---", "---", "---")
	return nil
}

// images reports the sizes of the images.
func (b *bench) images(ctx context.Context) error {
	names, err := b.compose(ctx, "config", "--images")
	if err != nil {
		return err
	}
	all := strings.Fields(names)
	slices.Sort(all)
	all = slices.Compact(all)
	out, err := b.docker(ctx, append([]string{"image", "inspect", "--format", "{{.Size}}"}, all...)...)
	if err != nil {
		return err
	}
	var least, most, sum int64
	largest := ""
	for i, text := range strings.Fields(out) {
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("the size of %s: %w", all[i], err)
		}
		b.budget(all[i], size, imageBudget)
		sum += size
		if least == 0 || size < least {
			least = size
		}
		if size > most {
			most, largest = size, all[i]
		}
	}
	b.row("images", fmt.Sprintf("%d, together %.0f MB", len(all), mega(sum)), "")
	b.row("one image", fmt.Sprintf("%.1f to %.1f MB (%s)", mega(least), mega(most), largest), "at most 25 MB")
	return nil
}

// start measures the times from `up` to the first page and until all containers are healthy. The engine runs the first
// health check one interval after a start.
func (b *bench) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // long enough for a slow machine
	defer cancel()
	began := time.Now()
	page := make(chan error, 1)
	var first time.Duration
	go func() {
		page <- until(ctx, 100*time.Millisecond, func() error {
			err := get(ctx, b.edge)
			first = time.Since(began)
			return err
		})
	}()
	if _, err := b.compose(ctx, "up", "--detach", "--no-build"); err != nil {
		return err
	}
	started := time.Since(began)
	if err := <-page; err != nil {
		return fmt.Errorf("waiting for the first page: %w", err)
	}
	var count int
	err := until(ctx, 500*time.Millisecond, func() error {
		all, err := b.containers(ctx)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.State.Health.Status != "healthy" {
				return fmt.Errorf("%s is %s", c.Name, c.State.Health.Status)
			}
		}
		count = len(all)
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for everything to be healthy: %w", err)
	}
	healthy := time.Since(began)
	if count < minContainers {
		b.over = append(b.over, fmt.Errorf("%d containers run, want at least %d", count, minContainers))
	}
	b.row("containers", strconv.Itoa(count), "")
	b.row("`up` until the first page at the edge", seconds(first), "5 s")
	b.row("`up` until all containers are started", seconds(started), "")
	b.row("`up` until all containers are healthy", seconds(healthy), "20 s")
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func (b *bench) idle(ctx context.Context) error {
	if _, err := b.compose(ctx, "stop", "audience"); err != nil {
		return err
	}
	return b.measure(ctx, "without the audience", "500 MB", idleBudget)
}

func (b *bench) audience(ctx context.Context) error {
	if _, err := b.compose(ctx, "start", "audience"); err != nil {
		return err
	}
	return b.measure(ctx, "with the audience", "1 GiB", loadBudget)
}

func (b *bench) load(ctx context.Context) error {
	if _, err := b.compose(ctx, "-f", "compose.yaml", "-f", "compose.load.yaml", "up", "--detach",
		"--no-build", "--no-deps", "audience"); err != nil {
		return err
	}
	return b.measure(ctx, "with the audience of compose.load.yaml", "1 GiB", loadBudget)
}

// measure waits for window, and then reports memory and CPU time of all containers over another window.
func (b *bench) measure(ctx context.Context, when, target string, most int64) error {
	fmt.Fprintln(b.log, "measuring", when)
	if !pace.Sleep(ctx, *window) {
		return ctx.Err()
	}
	all, err := b.containers(ctx)
	if err != nil {
		return err
	}
	before, err := usage(all)
	if err != nil {
		return err
	}
	began := time.Now()
	if !pace.Sleep(ctx, *window) {
		return ctx.Err()
	}
	after, err := usage(all)
	if err != nil {
		return err
	}
	spent := time.Since(began)
	var sum used
	largest, busiest := 0, 0
	for i, u := range after {
		after[i].cpu -= before[i].cpu
		sum.charged, sum.resident, sum.whole, sum.cpu = sum.charged+u.charged, sum.resident+u.resident,
			sum.whole+u.whole, sum.cpu+after[i].cpu
		if u.resident > after[largest].resident {
			largest = i
		}
		if after[i].cpu > after[busiest].cpu {
			busiest = i
		}
		fmt.Fprintf(b.log, "  %-20s %5.1f MB resident %5.1f MB charged %5.2f %% CPU\n", b.name(all[i]),
			mega(u.resident), mega(u.charged), percent(after[i].cpu, spent))
	}
	b.budget("resident memory "+when, sum.resident, most)
	b.row("resident memory "+when, fmt.Sprintf("%.0f MB; %s has %.0f MB", mega(sum.resident), b.name(all[largest]),
		mega(after[largest].resident)), target)
	b.row("- with shared pages counted for each process", fmt.Sprintf("%.0f MB", mega(sum.whole)), "")
	b.row("- charged to the limits of the containers", fmt.Sprintf("%.0f MB", mega(sum.charged)), "")
	b.row("CPU "+when+", health checks included", fmt.Sprintf("%.1f %% of one; %s has %.1f %%", percent(sum.cpu, spent),
		b.name(all[busiest]), percent(after[busiest].cpu, spent)), "")
	return nil
}

func (b *bench) name(c container) string { return strings.TrimPrefix(c.Name, "/"+b.project+"-") }

func percent(part, whole time.Duration) float64 { return 100 * part.Seconds() / whole.Seconds() }

// container has the fields of `docker inspect` that are needed.
type container struct {
	Name  string
	State struct {
		Pid    int
		Health struct{ Status string }
	}
}

// containers returns the running containers of the stack, sorted by name.
func (b *bench) containers(ctx context.Context) ([]container, error) {
	ids, err := b.docker(ctx, "ps", "--quiet", "--filter", "label=com.docker.compose.project="+b.project)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(ids) == "" {
		return nil, errors.New("no container runs")
	}
	out, err := b.docker(ctx, append([]string{"inspect"}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, err
	}
	var all []container
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b container) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// until calls check until it returns nil.
func until(ctx context.Context, every time.Duration, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !pace.Sleep(ctx, every) {
			return err
		}
	}
}

func get(ctx context.Context, url string) error {
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
		return fmt.Errorf("GET %s: %s, want 200", url, resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
