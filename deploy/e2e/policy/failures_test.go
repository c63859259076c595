package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// goTest is a command of docs/failures.md: its -run pattern and its packages.
	goTest     = regexp.MustCompile("`[^`]*go test [^`]*?-run[ =]('[^']*'|\"[^\"]*\"|\\S+)([^`]*)`")
	localPath  = regexp.MustCompile(`\./\S+`)
	testOrFuzz = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
)

// A renamed test leaves a command that runs nothing and succeeds.
func TestFailuresNameTests(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs/failures.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range checkFailures(string(doc), func(pkg string) (src string) {
		files, _ := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			src += string(b)
		}
		return src
	}) {
		t.Error(p)
	}
}

// checkFailures returns what is wrong with the rows of a list of failures: a row that is there twice, a row without a
// command, and a command with a pattern that matches no test of its packages. tests returns the tests of a package.
func checkFailures(doc string, tests func(pkg string) (src string)) (problems []string) {
	seen := map[string]bool{}
	for _, row := range strings.Split(doc, "\n")[1:] {
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| What broke |") {
			continue
		}
		what, _, _ := strings.Cut(row[2:], " | ")
		if seen[what] {
			problems = append(problems, fmt.Sprintf("docs/failures.md has a row twice: %s; delete one", what))
		}
		seen[what] = true
		commands := goTest.FindAllStringSubmatch(row, -1)
		if len(commands) == 0 {
			problems = append(problems,
				fmt.Sprintf("docs/failures.md has no command `go test -run NAME ./PACKAGE` for: %s", what))
		}
		for _, c := range commands {
			var src strings.Builder
			for _, pkg := range localPath.FindAllString(c[2], -1) {
				src.WriteString(tests(pkg))
			}
			problems = append(problems, unmatched(c[1], src.String())...)
		}
	}
	return problems
}

// unmatched returns a problem for each alternative of a -run pattern that matches no test of src.
func unmatched(pattern, src string) (problems []string) {
	pattern, _, _ = strings.Cut(strings.Trim(strings.ReplaceAll(pattern, `\|`, "|"), `'"`), "/")
	names := testOrFuzz.FindAllStringSubmatch(src, -1)
alternatives:
	for _, alt := range strings.Split(pattern, "|") {
		re, err := regexp.Compile(alt)
		if err != nil {
			return []string{fmt.Sprintf("docs/failures.md: -run %s: %v", pattern, err)}
		}
		for _, n := range names {
			if re.MatchString(n[1]) {
				continue alternatives
			}
		}
		problems = append(problems,
			fmt.Sprintf("docs/failures.md runs %s, but no test has such a name; name the test of today", alt))
	}
	return problems
}

func TestCheckFailuresReportsProblems(t *testing.T) {
	const head = "# Failures\n| What broke | How | Command | Verified |\n|---|---|---|---|\n"
	for name, doc := range map[string]string{
		"a row twice": "| a | b | `go test -run TestA ./x` | 2026-01-01 |\n" +
			"| a | c | `go test -run TestA ./x` | 2026-01-01 |",
		"no command":      "| a | b | run it | 2026-01-01 |",
		"a renamed test":  "| a | b | `go test -run TestB ./x` | 2026-01-01 |",
		"one of two":      "| a | b | `go test -run 'TestA\\|TestB' ./x` | 2026-01-01 |",
		"another package": "| a | b | `go test -run TestA ./y` | 2026-01-01 |",
	} {
		tests := map[string]string{"./x": "func TestA(t *testing.T) {"}
		problems := checkFailures(head+doc, func(pkg string) string { return tests[pkg] })
		if len(problems) != 1 {
			t.Errorf("%s: problems %q, want one", name, problems)
		}
	}
}
