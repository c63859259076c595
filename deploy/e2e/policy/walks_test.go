package policy_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// walkStop is a link to a Go file in docs/walks.md and the names behind it: `[text](../file.go) `Name`, `Type.Method`.
var walkStop = regexp.MustCompile("\\]\\(\\.\\./([^)]+\\.go)\\)((?:[,\\s]+`[^`]+`)*)")

// Walks must name only declarations that exist.
func TestWalksNameDeclarations(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(root, "docs/walks.md"))
	if err != nil {
		t.Fatal(err)
	}
	problems, stops := checkWalks(string(src), func(file string) (map[string]bool, error) {
		return declarations(filepath.Join(root, file))
	})
	for _, p := range problems {
		t.Error(p)
	}
	if stops < 15 {
		t.Errorf("docs/walks.md has %d links to Go files with names, want at least 15", stops)
	}
}

// checkWalks returns what is wrong with the links to Go files of a document, and their number.
func checkWalks(doc string, declared func(file string) (map[string]bool, error)) (problems []string, stops int) {
	for _, m := range walkStop.FindAllStringSubmatch(doc, -1) {
		file, names := m[1], regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[2], -1)
		all, err := declared(file)
		switch {
		case err != nil:
			problems = append(problems,
				fmt.Sprintf("docs/walks.md links to %s: %v; link to the file that has the code now", file, err))
			continue
		case len(names) == 0:
			problems = append(problems,
				fmt.Sprintf("docs/walks.md links to %s but names nothing in it; put a name in backticks after the link",
					file))
		}
		stops++
		for _, n := range names {
			if !all[n[1]] {
				problems = append(problems,
					fmt.Sprintf("docs/walks.md names %s in %s, which does not declare it; name what does that now",
						n[1], file))
			}
		}
	}
	return problems, stops
}

// declarations returns the names of the top-level declarations of a Go file. A method is called Type.Method.
func declarations(file string) (map[string]bool, error) {
	src, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, d := range src.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			all[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					all[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range spec.Names {
						all[n.Name] = true
					}
				}
			}
		}
	}
	return all, nil
}

// receiver returns "Type." for a method of Type or *Type, generic or not, and "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	for e := d.Recv.List[0].Type; ; {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name + "."
		default:
			return ""
		}
	}
}

func TestCheckWalksReportsProblems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.go")
	const code = "package a\n\nconst Limit = 1\n\ntype Set[T any] struct{}\n\nfunc (s *Set[T]) Get() {}\n\n" +
		"func New() {}\n"
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	declared := func(name string) (map[string]bool, error) {
		if name != "a.go" {
			return nil, os.ErrNotExist
		}
		return declarations(file)
	}
	for doc, want := range map[string]string{
		"[a](../a.go) `New`, `Limit`,\n`Set`, `Set.Get` and `other`": "",
		"[a](../a.go) `New`, `Get`":                                  "names Get in a.go, which does not declare it",
		"[a](../a.go) is good":                                       "names nothing in it",
		"[b](../b.go) `New`":                                         "links to b.go: file does not exist",
	} {
		problems, _ := checkWalks(doc, declared)
		if got := strings.Join(problems, "\n"); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("checking %q: got %q, want %q", doc, got, want)
		}
	}
}
