package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const source = `package p

const size = 4

func f(a, b int, log logger) (ok bool) {
	log.Info("starting", "count", 1)
	defer unlock()
	a++
	if a < b && !ok {
		total = a + 1
		return true
	}
	return text == "x"
}
`

func TestMutantsOfOneFile(t *testing.T) {
	all, err := mutantsOf("p.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, m.what)
		if string(m.source) == source {
			t.Errorf("line %d, %s: the source did not change", m.line, m.what)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), "p.go", m.source, 0); err != nil {
			t.Errorf("line %d, %s: %v", m.line, m.what, err)
		}
	}
	want := []string{
		"defer of unlock is removed", "++ is removed",
		"&& becomes ||", "< becomes <=", "< becomes >=", "! is removed",
		"assignment is removed", "+ becomes -", "1 becomes 2", "true becomes false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutants:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestKeysOfMutantsAreUniqueAndDoNotDependOnTheLineNumber(t *testing.T) {
	const body = "func f(a, b int) bool {\n\tunlock()\n\tunlock()\n\treturn a < b && b < a\n}\n"
	keys := func(source string) (list []string) {
		all, err := mutantsOf("/top/platform/circuit/p.go", []byte(source))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			list = append(list, m.key())
		}
		return list
	}
	got := keys("package p\n\n" + body)
	want := []string{
		"circuit/p.go: unlock(): call of unlock is removed",
		"circuit/p.go: unlock(): call of unlock is removed, number 2 in the file",
		"circuit/p.go: return a < b && b < a: && becomes ||",
		"circuit/p.go: return a < b && b < a: < becomes <=",
		"circuit/p.go: return a < b && b < a: < becomes >=",
		"circuit/p.go: return a < b && b < a: < becomes <=, number 2 in the file",
		"circuit/p.go: return a < b && b < a: < becomes >=, number 2 in the file",
	}
	if !slices.Equal(got, want) {
		t.Errorf("keys:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if moved := keys("package p\n\n// A comment.\n\n" + body); !slices.Equal(moved, want) {
		t.Errorf("keys after the code moved down:\n%s\nwant them as before", strings.Join(moved, "\n"))
	}
}

func TestSampleFollowsItsSeedAndSurvivesAChangeOfTheCode(t *testing.T) {
	sample := func(seed uint64, without int) (keys []string) {
		var all []mutant
		for i := range 20 {
			if i != without {
				all = append(all, mutant{file: "/p/q.go", text: fmt.Sprint("line ", i), what: "++ is removed"})
			}
		}
		shuffle(all, seed)
		for _, m := range all[:10] {
			keys = append(keys, m.text)
		}
		return keys
	}
	first := sample(1, -1)
	if !slices.Equal(first, sample(1, -1)) {
		t.Error("the same seed gives two samples")
	}
	if slices.Equal(first, sample(2, -1)) {
		t.Errorf("seeds 1 and 2 give the same sample, %q", first)
	}
	var removed int
	if _, err := fmt.Sscanf(first[0], "line %d", &removed); err != nil {
		t.Fatal(err)
	}
	if got := sample(1, removed); !slices.Equal(got[:9], first[1:]) {
		t.Errorf("without %q the sample is %q, want the rest of %q and one more", first[0], got, first)
	}
}

func TestEquivalentMutantsHaveAReason(t *testing.T) {
	if _, err := parseEquivalent(equivalentList); err != nil {
		t.Errorf("equivalent.txt: %v", err)
	}
	got, err := parseEquivalent("# comment\n\na/b.go: x++: ++ is removed\n\tNothing reads it.\n")
	if err != nil || len(got) != 1 || got["a/b.go: x++: ++ is removed"] != "Nothing reads it." {
		t.Errorf("got %q, error %v; want the one mutant with its reason", got, err)
	}
	if _, err := parseEquivalent("\tA reason of nothing.\n"); err == nil {
		t.Error("a reason without a mutant is taken")
	}
}

func TestDocumentListsSurvivorsAndEquivalents(t *testing.T) {
	live := mutant{file: "/top/platform/circuit/p.go", text: "unlock()", what: "call of unlock is removed"}
	same := mutant{file: "/top/platform/circuit/p.go", text: "x++", what: "++ is removed"}
	r := report{
		pkg: "circuit", possible: 40, tried: 4, killed: 2, hung: 1, survivors: []mutant{live},
		equivalent: []mutant{same},
	}
	got := write([]report{r}, map[string]string{same.key(): "Nothing reads it."}, "platform", 4, 7)
	for _, want := range []string{
		`"make mutate N=4 SEED=7" wrote this page`,
		"| circuit | 40 | 4 | 3 | 1 | 75 % |",
		"| **all** | 40 | 4 | 3 | 1 | 75 % |",
		"## Survivors\n\n* `circuit/p.go: unlock(): call of unlock is removed`\n",
		"* `circuit/p.go: x++: ++ is removed`\n  Nothing reads it.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the document lacks %q:\n%s", want, got)
		}
	}
}
