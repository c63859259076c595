package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is one change of a source file that a test should notice.
type mutant struct {
	file string
	line int
	what string // "< becomes <="
	text string // the line in the unchanged file, without indentation
	// source is the whole changed file.
	source []byte
}

// key names a mutant the same way as long as its line stays the same, wherever in the file it is.
func (m mutant) key() string {
	return filepath.Base(filepath.Dir(m.file)) + "/" + filepath.Base(m.file) + ": " + m.text + ": " + m.what
}

// order is where in a random sample the mutant stands. Another seed gives another order.
func (m mutant) order(seed uint64) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", seed, m.key()))
	return binary.BigEndian.Uint64(sum[:])
}

// swaps are the operators that are exchanged. Conditions change by their boundary and by their sense.
var swaps = map[token.Token][]token.Token{
	token.LSS:  {token.LEQ, token.GEQ},
	token.LEQ:  {token.LSS, token.GTR},
	token.GTR:  {token.GEQ, token.LEQ},
	token.GEQ:  {token.GTR, token.LSS},
	token.EQL:  {token.NEQ},
	token.NEQ:  {token.EQL},
	token.LAND: {token.LOR},
	token.LOR:  {token.LAND},
	token.ADD:  {token.SUB},
	token.SUB:  {token.ADD},
	token.MUL:  {token.QUO},
	token.QUO:  {token.MUL},
}

// mutantsOf returns every mutant of a file, in the order of the source. Those of text and of log lines are left out: a
// test that fixes the wording of a log line is worth nothing.
func mutantsOf(file string, source []byte) ([]mutant, error) {
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, file, source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", file, err)
	}
	var all []mutant
	lines, seen := strings.Split(string(source), "\n"), map[string]int{}
	// try changes the tree, prints it, and changes it back.
	try := func(at token.Pos, what string, change, restore func()) {
		change()
		var b bytes.Buffer
		if format.Node(&b, fset, tree) == nil {
			line := fset.Position(at).Line
			m := mutant{file, line, what, strings.TrimSpace(lines[line-1]), b.Bytes()}
			if seen[m.key()]++; seen[m.key()] > 1 {
				m.what += fmt.Sprintf(", number %d in the file", seen[m.key()])
			}
			all = append(all, m)
		}
		restore()
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GenDecl:
			return n.Tok == token.VAR
		case *ast.CallExpr:
			return !isLog(n)
		case *ast.BinaryExpr:
			if isText(n.X) || isText(n.Y) {
				return false
			}
			for _, to := range swaps[n.Op] {
				from := n.Op
				try(n.OpPos, fmt.Sprintf("%s becomes %s", from, to), func() { n.Op = to }, func() { n.Op = from })
			}
		case *ast.UnaryExpr:
			if n.Op == token.NOT {
				x := n.X
				try(n.Pos(), "! is removed", func() { n.X = &ast.UnaryExpr{Op: token.NOT, X: x} }, func() { n.X = x })
			}
		case *ast.BlockStmt:
			for i, s := range n.List {
				if what := removable(s); what != "" {
					try(s.Pos(), what+" is removed", func() { n.List[i] = &ast.EmptyStmt{Semicolon: s.Pos()} },
						func() { n.List[i] = s })
				}
			}
		case *ast.Ident:
			if to, ok := map[string]string{"true": "false", "false": "true"}[n.Name]; ok {
				from := n.Name
				try(n.Pos(), from+" becomes "+to, func() { n.Name = to }, func() { n.Name = from })
			}
		case *ast.BasicLit:
			if v, err := strconv.ParseInt(n.Value, 0, 32); err == nil && n.Kind == token.INT {
				from, to := n.Value, strconv.FormatInt(v+1, 10)
				try(n.Pos(), from+" becomes "+to, func() { n.Value = to }, func() { n.Value = from })
			}
		}
		return true
	})
	return all, nil
}

// removable says what a statement is if the program still makes sense without it, else "".
func removable(s ast.Stmt) string {
	switch s := s.(type) {
	case *ast.ExprStmt:
		if call, ok := s.X.(*ast.CallExpr); ok && !isLog(call) {
			return "call of " + nameOf(call.Fun)
		}
	case *ast.AssignStmt:
		if s.Tok != token.DEFINE {
			return "assignment"
		}
	case *ast.IncDecStmt:
		return s.Tok.String()
	case *ast.DeferStmt:
		return "defer of " + nameOf(s.Call.Fun)
	}
	return ""
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return "a function"
}

// isLog tells whether a call writes to a log or to a span, or only makes an error's text.
func isLog(c *ast.CallExpr) bool {
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch s.Sel.Name {
	case "Debug", "Info", "Warn", "Error", "Log", "LogAttrs", "Errorf", "Sprintf":
		return true
	}
	return false
}

func isText(e ast.Expr) bool {
	lit, ok := e.(*ast.BasicLit)
	return ok && lit.Kind == token.STRING || ok && strings.HasPrefix(lit.Value, "'")
}
