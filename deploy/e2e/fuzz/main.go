// Command fuzz runs every fuzz target of the repository for a short time, one after the other, and prints a line for
// each. It finds the targets by the names of their functions.
//
//	go run ./deploy/e2e/fuzz                     # all, 3 s each; what CI does
//	go run ./deploy/e2e/fuzz -time 5m -run REST  # those that match, for longer
//	go run ./deploy/e2e/fuzz -time 30s -keep 20  # and keep the shortest inputs it found in testdata
//
// It exits with 1 when a target fails. The input that it failed with is then in the package's testdata, and is run by
// go test from then on.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// target is one fuzz function.
type target struct {
	dir, name string
}

// binary is the test binary of a package, built once for all its targets.
type binary struct {
	file  string
	cache string // folder with the found inputs, one folder per target
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	flags.SetOutput(stderr)
	each := flags.Duration("time", 3*time.Second, "how long to run each target")
	match := flags.String("run", "", "run only targets that match this regular expression")
	keep := flags.Int("keep", 0, "copy up to this many new inputs of each target to its testdata, the shortest ones")
	list := flags.Bool("list", false, "list the targets and run none")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	pattern, err := regexp.Compile(*match)
	if err != nil {
		fmt.Fprintln(stderr, "fuzz: -run:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	targets, err := find(".", pattern)
	if err == nil && len(targets) == 0 {
		err = fmt.Errorf("no target matches %q below the current folder; run it at the top of the repository", *match)
	}
	if err != nil {
		fmt.Fprintln(stderr, "fuzz:", err)
		return 1
	}
	if *list {
		for _, t := range targets {
			fmt.Fprintln(stdout, t.dir, t.name)
		}
		return 0
	}
	tmp, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		fmt.Fprintln(stderr, "fuzz:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	begin, failed, execs := time.Now(), 0, 0
	var b binary
	var broken error
	for i, t := range targets {
		if i == 0 || t.dir != targets[i-1].dir {
			b, broken = build(ctx, t.dir, filepath.Join(tmp, "fuzz.test"))
		}
		n, err := 0, broken
		if err == nil {
			n, err = t.run(ctx, b, *each, *keep, stdout)
		}
		if execs += n; err != nil {
			failed++
			fmt.Fprintf(stdout, "%s %s: FAILED: %v\n", t.dir, t.name, err)
		}
	}
	fmt.Fprintf(stdout, "%d targets, %d runs, %d failed, in %.0f s\n", len(targets), execs, failed,
		time.Since(begin).Seconds())
	return min(failed, 1)
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// find returns the targets below root, in order of folder and name.
func find(root string, match *regexp.Regexp) (all []target, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" ||
			d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			t := target{filepath.Dir(path), string(m[1])}
			if match.MatchString(t.dir + " " + t.name) {
				all = append(all, t)
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.dir+" "+a.name, b.dir+" "+b.name) })
	return all, err
}

// build builds the tests of the package in dir.
func build(ctx context.Context, dir, file string) (binary, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz=.", "-ldflags=-s -w", "-o", file, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return binary{}, fmt.Errorf("building %s: %w\n%s", dir, err, out)
	}
	cmd = exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}}", ".")
	cmd.Dir = dir
	name, err := cmd.Output()
	if err != nil {
		return binary{}, fmt.Errorf("naming the package of %s: %w", dir, err)
	}
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return binary{}, fmt.Errorf("asking for the cache: %w", err)
	}
	// The folder that go test uses, too.
	return binary{file, filepath.Join(strings.TrimSpace(string(cache)), "fuzz", strings.TrimSpace(string(name)))}, nil
}

var progress = regexp.MustCompile(`execs: (\d+) .*total: (\d+)`)

// run fuzzes with one worker per core, prints the result, and returns how many inputs were tried.
func (t target) run(ctx context.Context, b binary, each time.Duration, keep int, stdout io.Writer) (execs int,
	err error,
) {
	begin := time.Now()
	out, err := t.fuzz(ctx, b, each)
	for n := 1; n < attempts && isDeadline(out, err); n++ {
		fmt.Fprintf(stdout, "%s %s: the end of the time was reported as a failure (golang/go#75804), again\n", t.dir, t.name)
		out, err = t.fuzz(ctx, b, each)
	}
	if err != nil {
		_, _ = stdout.Write(out)
		return 0, err
	}
	total := "?"
	if all := progress.FindAllSubmatch(out, -1); len(all) > 0 {
		last := all[len(all)-1]
		execs, _ = strconv.Atoi(string(last[1])) // digits
		total = string(last[2])
	}
	fmt.Fprintf(stdout, "%-32s %-16s %8d runs, %4s interesting, %5.1f s\n", t.dir, t.name, execs, total,
		time.Since(begin).Seconds())
	if keep == 0 {
		return execs, nil
	}
	return execs, t.keep(b, keep)
}

// attempts is how often a target is run when the end of its time is reported as a failure.
const attempts = 3

// isDeadline reports whether a target failed only because its time was over: Go before 1.27 can take that for a failure
// (golang/go#75804). A target that really fails leaves the input that it failed with.
func isDeadline(out []byte, err error) bool {
	return err != nil && bytes.Contains(out, []byte("\n    context deadline exceeded\n")) &&
		!bytes.Contains(out, []byte("Failing input written to"))
}

// fuzz runs the target once and returns what it printed.
func (t target) fuzz(ctx context.Context, b binary, each time.Duration) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.file, "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.fuzztime="+each.String(),
		"-test.fuzzminimizetime=1s", "-test.fuzzcachedir="+b.cache)
	cmd.Dir = t.dir
	return cmd.CombinedOutput()
}

// keep copies the shortest inputs from the cache that are not in testdata yet.
func (t target) keep(b binary, n int) error {
	from, to := filepath.Join(b.cache, t.name), filepath.Join(t.dir, "testdata", "fuzz", t.name)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	type input struct {
		name string
		text []byte
	}
	var inputs []input
	entries, _ := os.ReadDir(from) // without found inputs there is no folder
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		inputs = append(inputs, input{e.Name(), text})
	}
	slices.SortFunc(inputs, func(a, b input) int { return len(a.text) - len(b.text) })
	for _, in := range inputs[:min(n, len(inputs))] {
		if err := os.WriteFile(filepath.Join(to, in.name), in.text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
