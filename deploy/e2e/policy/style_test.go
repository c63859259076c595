package policy_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// isOurs reports whether a path is a Go file that people write.
func isOurs(p string) bool { return strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, ".pb.go") }

// longest is the most characters of a line.
const longest = 120

// TestLinesAreShort: two windows side by side show whole lines. Texts in backquotes and struct tags may be longer.
func TestLinesAreShort(t *testing.T) {
	for _, p := range files(t, isOurs) {
		file, err := os.Open(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		quoted := false
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			line := lines.Text()
			free := quoted || strings.Contains(line, "`")
			if strings.Count(line, "`")%2 == 1 {
				quoted = !quoted
			}
			if width := utf8.RuneCountInString(line); width > longest && !free && !isOneText(line) {
				t.Errorf("%s:%d: has %d characters; at most %d are readable beside another window", p, n, width,
					longest)
			}
		}
		_ = file.Close()
		if err := lines.Err(); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// isOneText reports whether a line is a single string that a break would not make easier to read.
func isOneText(line string) bool {
	line = strings.TrimSpace(line)
	end := strings.LastIndexByte(line, '"')
	start := strings.IndexByte(line, '"')
	return start >= 0 && end-start > longest-30 && strings.Count(line[start+1:end], `", `) == 0
}

// meaning is how the comment of a field of an Options struct ends: with what its zero value means.
var meaning = regexp.MustCompile(`\b(Zero|Empty|Nil|False|Required)\b`)

// TestOptionsSayWhatTheirZeroValuesMean checks the rules on options of docs/style.md.
func TestOptionsSayWhatTheirZeroValuesMean(t *testing.T) {
	methods := map[string][]string{} // folder -> methods of its Options
	eachDecl(t, func(p string, fset *token.FileSet, d ast.Decl) {
		switch d := d.(type) {
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				s, ok := spec.(*ast.TypeSpec)
				if !ok || !s.Name.IsExported() || !strings.HasSuffix(s.Name.Name, "Options") {
					continue
				}
				if fields, ok := s.Type.(*ast.StructType); ok {
					checkOptions(t, fset, s.Name.Name, fields)
				}
			}
		case *ast.FuncDecl:
			if isOptionsMethod(d) {
				methods[path.Dir(p)] = append(methods[path.Dir(p)], d.Name.Name)
			}
		}
	})
	for dir, names := range methods {
		for _, name := range names {
			if name == "setDefaults" || name == "defaults" || name == "validate" &&
				!slices.Contains(names, "complete") {
				t.Errorf("%s: method %s of options: call it complete; it fills in defaults and checks (docs/style.md)",
					dir, name)
			}
		}
	}
}

func checkOptions(t *testing.T, fset *token.FileSet, name string, s *ast.StructType) {
	for _, f := range s.Fields.List {
		if len(f.Names) > 0 && f.Names[0].IsExported() && !meaning.MatchString(f.Doc.Text()) {
			t.Errorf("%s: field %s of %s: its comment must say what its zero value means: Zero, Empty, Nil, False or "+
				"Required",
				fset.Position(f.Pos()), f.Names[0].Name, name)
		}
	}
}

func isOptionsMethod(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && strings.HasSuffix(id.Name, "Options")
}

// jsonName is what the name of a field in JSON looks like. "-" and "" keep their meaning in encoding/json.
var jsonName = regexp.MustCompile(`^([a-z][a-zA-Z0-9]*|-)?$`)

// TestJSONNamesAreLowerCamelCase checks the rule on JSON names of docs/style.md.
func TestJSONNamesAreLowerCamelCase(t *testing.T) {
	eachDecl(t, func(_ string, fset *token.FileSet, d ast.Decl) {
		ast.Inspect(d, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			if err != nil || !jsonName.MatchString(name) {
				t.Errorf("%s: the field is called %q in JSON; it must be lowerCamelCase", fset.Position(field.Pos()),
					name)
			}
			return true
		})
	})
}

// logKey is what a key of a log line looks like.
var logKey = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// otherWords maps a key to the key that is used for the same value.
var otherWords = map[string]string{
	"err": "error", "problem": "error", "why": "reason", "cause": "reason",
	"addr": "address",
}

// TestLogKeysAreTheSameEverywhere checks that a search through the logs of all services needs one key for each meaning.
func TestLogKeysAreTheSameEverywhere(t *testing.T) {
	eachDecl(t, func(_ string, fset *token.FileSet, d ast.Decl) {
		ast.Inspect(d, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, key := range keysOf(call) {
				text, err := strconv.Unquote(key.Value)
				switch {
				case err != nil:
				case !logKey.MatchString(text):
					t.Errorf("%s: log key %q must be lower case with underscores", fset.Position(key.Pos()), text)
				case otherWords[text] != "":
					t.Errorf("%s: log key %q: everywhere else it is called %q", fset.Position(key.Pos()), text,
						otherWords[text])
				}
			}
			return true
		})
	})
}

// keysOf returns the keys of a call of a slog.Logger: every second argument behind the message.
func keysOf(call *ast.CallExpr) []*ast.BasicLit {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !isLogger(method.X) {
		return nil
	}
	first, ok := map[string]int{
		"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0,
		"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2, "Log": 3,
	}[method.Sel.Name]
	var keys []*ast.BasicLit
	for i := first; ok && i < len(call.Args); i += 2 {
		if lit, isLit := call.Args[i].(*ast.BasicLit); isLit && lit.Kind == token.STRING {
			keys = append(keys, lit)
		}
	}
	return keys
}

// isLogger reports whether an expression is called log, Log or Log().
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return strings.EqualFold(e.Name, "log")
	case *ast.SelectorExpr:
		return strings.EqualFold(e.Sel.Name, "log")
	case *ast.CallExpr:
		return isLogger(e.Fun)
	}
	return false
}

// eachDecl calls fn with every declaration of the code that people write, tests left out.
func eachDecl(t *testing.T, fn func(path string, fset *token.FileSet, d ast.Decl)) {
	t.Helper()
	for _, p := range files(t, func(p string) bool { return isOurs(p) && !strings.HasSuffix(p, "_test.go") }) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(root, p), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			fn(p, fset, d)
		}
	}
}
