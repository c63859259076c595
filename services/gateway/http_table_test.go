package gateway_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each row of docs/api/http.md has a level, an answer with a reason where it is no, and tests that exist: the function,
// and for each part behind it a string in the tests.
func TestTableOfHTTP(t *testing.T) {
	page, err := os.ReadFile("../../docs/api/http.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := allTests(t)
	row := regexp.MustCompile(`(?m)^\| (\d[\d.]*) \| (.*?) \| (.*?) \| (.*?) \|$`)
	name := regexp.MustCompile("^`[^`]+`$")
	rows := row.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 200 {
		t.Errorf("the tables have %d rows, want at least 200", len(rows))
	}
	for _, r := range rows {
		section, rule, here, shown := r[1], r[2], r[3], r[4]
		if !regexp.MustCompile(`MUST|SHOULD|RECOMMENDED`).MatchString(rule) {
			t.Errorf("%s %s: the rule has no MUST, SHOULD or RECOMMENDED", section, rule)
		}
		if !strings.HasPrefix(here, "yes") && !strings.HasPrefix(here, "no") {
			t.Errorf("%s %s: the answer is %q, want yes or no first", section, rule, here)
		}
		if regexp.MustCompile(`\bno( for [^;:,]*| in [^;:,]*)?$`).MatchString(here) {
			t.Errorf("%s %s: the answer %q gives no reason", section, rule, here)
		}
		for _, test := range strings.Split(shown, "`, `") {
			test = strings.Trim(test, "`")
			if !name.MatchString("`" + test + "`") {
				t.Errorf("%s %s: %q is no name of a test", section, rule, test)
			}
			function, parts, _ := strings.Cut(test, "/")
			if !strings.Contains(tests, "\nfunc "+function+"(t *testing.T) {") {
				t.Errorf("%s %s: there is no test %s", section, rule, function)
			}
			// names of cases are strings, and may have a slash in them
			for parts != "" {
				part, rest, found := strings.Cut(parts, "/")
				for found && !strings.Contains(tests, `"`+part+`"`) {
					var more string
					more, rest, found = strings.Cut(rest, "/")
					part += "/" + more
				}
				if !strings.Contains(tests, `"`+part+`"`) {
					t.Errorf("%s %s: no case of %s has the name %q", section, rule, function, part)
				}
				parts = rest
			}
		}
	}
}

// allTests returns the text of all tests of this package and of http1.
func allTests(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	below, err2 := filepath.Glob("internal/http1/*_test.go")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	files = append(files, below...)
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}
