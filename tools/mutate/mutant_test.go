package main

import (
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
