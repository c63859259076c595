// Command mutate changes one thing in a package, runs the tests that should notice, and repeats that for a random
// sample of all possible changes. A change that no test notices has survived: either a test is missing or the code does
// nothing.
//
//	go run . -root ../.. -n 12 -seed 1 -out ../../docs/mutation.md circuit=./circuit config=./config,./config/...
//
// Each argument names a package below platform/, and after "=" the test packages, separated by commas. Without "=" they
// are the package's own. The source files stay as they are: a changed file reaches the compiler by an overlay (go help
// build).
//
// equivalent.txt lists the changes that survive because they change nothing that a test should fix.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// result is what became of a mutant.
type result int

const (
	killed    result = iota // a test failed
	timedOut                // the tests did not end; that counts as killed
	survived                // all tests passed
	notViable               // it does not compile
)

// report is what became of the mutants of one package. Equivalent ones are not in tried.
type report struct {
	pkg                           string
	possible, tried, killed, hung int
	survivors, equivalent         []mutant
}

// share is the part of the tried mutants that died, in percent.
func (r report) share() int { return 100 * (r.killed + r.hung) / max(r.tried, 1) }

//go:embed equivalent.txt
var equivalentList string

func main() {
	log.SetFlags(0)
	root := flag.String("root", "../..", "the top of the repository")
	module := flag.String("module", "platform", "the module's folder below the top")
	n := flag.Int("n", 10, "mutants of each package; 0 means all")
	seed := flag.Uint64("seed", 1, "chooses the sample; the same seed on the same code is the same sample")
	limit := flag.Duration("limit", 2*time.Minute, "the longest that the tests of one mutant may take")
	out := flag.String("out", "", "the file for the table; empty: standard output only")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("mutate: name at least one package, such as circuit")
	}
	dir, err := filepath.Abs(filepath.Join(*root, *module))
	if err != nil {
		log.Fatalf("mutate: finding the module: %v", err)
	}
	reasons, err := parseEquivalent(equivalentList)
	if err != nil {
		log.Fatalf("mutate: %v", err)
	}
	var reports []report
	for _, arg := range flag.Args() {
		r, err := run(dir, arg, *n, *seed, *limit, reasons)
		if err != nil {
			log.Fatalf("mutate: %v", err)
		}
		reports = append(reports, r)
	}
	table := write(reports, reasons, *module, *n, *seed)
	fmt.Print(table)
	if *out != "" {
		if err := os.WriteFile(*out, []byte(table), 0o644); err != nil { //nolint:gosec // a document
			log.Fatalf("mutate: writing the table: %v", err)
		}
	}
}

// run tries n mutants of one package.
func run(dir, arg string, n int, seed uint64, limit time.Duration, reasons map[string]string) (report, error) {
	pkg, tests, ok := strings.Cut(arg, "=")
	if !ok {
		tests = "./" + pkg
	}
	all, err := mutantsOfPackage(filepath.Join(dir, pkg))
	if err != nil {
		return report{}, err
	}
	r := report{pkg: pkg, possible: len(all)}
	if got, out := test(dir, strings.Split(tests, ","), "", limit); got != survived {
		return r, fmt.Errorf("the tests of %s do not pass as they are: %s", pkg, out)
	}
	shuffle(all, seed)
	for _, m := range all {
		if n > 0 && r.tried == n {
			break
		}
		if reasons[m.key()] != "" {
			r.equivalent = append(r.equivalent, m)
			continue
		}
		got, err := tryMutant(dir, strings.Split(tests, ","), m, limit)
		if err != nil {
			return r, err
		}
		if got == notViable {
			continue
		}
		r.tried++
		switch got {
		case killed:
			r.killed++
		case timedOut:
			r.hung++
		default:
			r.survivors = append(r.survivors, m)
			log.Printf("survived: %s:%d: %s", m.file, m.line, m.key())
		}
	}
	log.Printf("%s: %d of %d killed", pkg, r.killed+r.hung, r.tried)
	return r, nil
}

// shuffle orders mutants by a hash of their names, so that a change of the code changes only its own part of the
// sample.
func shuffle(all []mutant, seed uint64) {
	slices.SortFunc(all, func(a, b mutant) int { return cmp.Compare(a.order(seed), b.order(seed)) })
}

func mutantsOfPackage(dir string) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no Go files in %s: %w", dir, err)
	}
	var all []mutant
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || strings.HasSuffix(file, ".pb.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		more, err := mutantsOf(file, source)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

func tryMutant(dir string, tests []string, m mutant, limit time.Duration) (result, error) {
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the mutant: %w", err)
	}
	defer os.RemoveAll(tmp)
	changed, overlay := filepath.Join(tmp, "mutant.go"), filepath.Join(tmp, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {m.file: changed}})
	if err != nil {
		return 0, fmt.Errorf("describing the overlay: %w", err)
	}
	if err := errors.Join(os.WriteFile(changed, m.source, 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return 0, fmt.Errorf("writing the mutant: %w", err)
	}
	got, _ := test(dir, tests, overlay, limit)
	return got, nil
}

// test runs the tests once, with the overlay if there is one.
func test(dir string, tests []string, overlay string, limit time.Duration) (result, string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	args := []string{"test", "-count=1", "-failfast", "-vet=off", "-short", "-timeout", limit.String()}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, tests...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case err == nil:
		return survived, text
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return notViable, text
	case ctx.Err() != nil || strings.Contains(text, "panic: test timed out"):
		return timedOut, text
	}
	return killed, text
}

// parseEquivalent reads the list of equivalent mutants: two lines for each, its key and "\t" with the reason.
func parseEquivalent(list string) (map[string]string, error) {
	reasons, key := map[string]string{}, ""
	for i, line := range strings.Split(list, "\n") {
		reason, indented := strings.CutPrefix(line, "\t")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !indented:
			key = line
		case key == "":
			return nil, fmt.Errorf("reading equivalent.txt: line %d gives a reason, but no mutant stands above it", i+1)
		default:
			reasons[key], key = reason, ""
		}
	}
	return reasons, nil
}

const introduction = `# Mutation tests

"make mutate N=%d SEED=%d" wrote this page on %s. It changes one thing at a time in the core packages of %s, such
as a condition, a number or a statement, and runs the package's tests. A change that no test notices has survived: a
test is missing, or the code does nothing.

Of all possible changes in a package, N are chosen at random by SEED (N=0: all). A line that stays the same keeps its
place in the sample. Left out are changes that do not compile, and those that change nothing that a test should fix:
tools/mutate/equivalent.txt has them with the reason.

`

// write returns the document: a table, and the survivors below it.
func write(reports []report, reasons map[string]string, module string, n int, seed uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, introduction, n, seed, time.Now().UTC().Format("2 January 2006"), module)
	b.WriteString("| Package | Possible | Tried | Killed | of these by time-out | Share |\n|---|---|---|---|---|---|\n")
	all := report{pkg: "**all**"}
	for _, r := range reports {
		all.possible, all.tried = all.possible+r.possible, all.tried+r.tried
		all.killed, all.hung = all.killed+r.killed, all.hung+r.hung
		all.survivors, all.equivalent = append(all.survivors, r.survivors...), append(all.equivalent, r.equivalent...)
	}
	for _, r := range append(reports, all) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d %% |\n",
			r.pkg, r.possible, r.tried, r.killed+r.hung, r.hung, r.share())
	}
	b.WriteString("\n## Survivors\n\n")
	for _, m := range all.survivors {
		fmt.Fprintf(&b, "* `%s`\n", m.key())
	}
	b.WriteString("\n## Left out as equivalent\n\n")
	for _, m := range all.equivalent {
		fmt.Fprintf(&b, "* `%s`\n  %s\n", m.key(), reasons[m.key()])
	}
	return b.String()
}
