package gateway_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each row of docs/gateway.md has an answer for every proxy. Where ours is yes, it names tests that exist.
func TestTableOfFeatures(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsBelow(t, ".", "../../platform/route", "../../platform/retry")
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| **") || len(cells) != 5 ||
			strings.HasPrefix(line, "| Feature |") {
			continue
		}
		rows++
		feature, ours := strings.TrimPrefix(cells[0], "| "), strings.TrimSuffix(cells[4], " |")
		for _, cell := range cells[1:4] {
			if strings.TrimSpace(cell) == "" {
				t.Errorf("%s: an answer is missing", feature)
			}
		}
		names := regexp.MustCompile("`(Test[^`]*)`").FindAllStringSubmatch(ours, -1)
		switch {
		case strings.HasPrefix(ours, "yes"):
			if len(names) == 0 {
				t.Errorf("%s: the answer %q names no test", feature, ours)
			}
		case !strings.HasPrefix(ours, "no"):
			t.Errorf("%s: the answer is %q, want yes or no first", feature, ours)
		}
		for _, name := range names {
			if !tests[name[1]] {
				t.Errorf("%s: there is no test %s", feature, name[1])
			}
		}
	}
	if rows < 40 {
		t.Errorf("the table has %d rows, want at least 40", rows)
	}
}

// testsBelow returns the names of the tests in folders and those below.
func testsBelow(t *testing.T, folders ...string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range declared.FindAllSubmatch(text, -1) {
				names[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
