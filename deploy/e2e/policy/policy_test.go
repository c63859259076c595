// Package policy_test checks rules of the code base that the compiler and the linter do not check. Each rule has its
// reason beside it.
package policy_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the top of the repository.
const root = "../../.."

// goMod is what `go mod edit -json` and `go work edit -json` print.
type goMod struct {
	Module  struct{ Path string }
	Go      string
	Use     []struct{ DiskPath string }
	Require []struct{ Path, Version string }
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
}

func readMod(t *testing.T, args ...string) goMod {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running go %v: %v", args, err)
	}
	var m goMod
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// files returns the paths below root that keep returns true for, slash separated and relative to root.
func files(t *testing.T, keep func(name string) bool) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" ||
			d.Name() == "node_modules" || d.Name() == "artifacts") {
			return fs.SkipDir
		}
		if !d.IsDir() && keep(p) {
			all = append(all, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// modules returns the folder of every module that belongs into the workspace. The modules below tools are not in it:
// their requirements would raise the versions with which the other modules are built.
func modules(t *testing.T) []string {
	var dirs []string
	for _, f := range files(t, func(p string) bool { return path.Base(p) == "go.mod" }) {
		if dir := path.Dir(f); !strings.HasPrefix(dir, "tools") {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func TestWorkspaceIsComplete(t *testing.T) {
	var used []string
	work := readMod(t, "work", "edit", "-json")
	for _, u := range work.Use {
		used = append(used, path.Clean(filepath.ToSlash(u.DiskPath)))
	}
	dirs := modules(t)
	slices.Sort(used)
	slices.Sort(dirs)
	if !slices.Equal(used, dirs) {
		t.Errorf("go.work uses %v; there are modules in %v", used, dirs)
	}
	for _, dir := range dirs {
		m := readMod(t, "mod", "edit", "-json", dir+"/go.mod")
		if m.Go != work.Go {
			t.Errorf("%s: go %s, but go.work has go %s; the go lines must be equal", dir, m.Go, work.Go)
		}
		if want := "bijou.dev/" + dir; m.Module.Path != want {
			t.Errorf("%s: module %s, want %s", dir, m.Module.Path, want)
		}
		checkReplaces(t, dir, m)
	}
}

// checkReplaces checks that a module finds the other modules of this repository without the workspace: images are built
// without it.
func checkReplaces(t *testing.T, dir string, m goMod) {
	replaced := map[string]string{}
	for _, r := range m.Replace {
		replaced[r.Old.Path] = r.New.Path
		if !strings.HasPrefix(r.Old.Path, "bijou.dev/") {
			t.Errorf("%s: replaces %s, which is not a module of this repository; require a released version", dir,
				r.Old.Path)
		}
	}
	for _, r := range m.Require {
		sibling, ok := strings.CutPrefix(r.Path, "bijou.dev/")
		if !ok {
			continue
		}
		if r.Version != "v0.0.0" {
			t.Errorf("%s: requires %s %s, want v0.0.0", dir, r.Path, r.Version)
		}
		if got := path.Join(dir, replaced[r.Path]); replaced[r.Path] == "" || got != sibling {
			t.Errorf("%s: %s must be replaced by the folder %s", dir, r.Path, sibling)
		}
	}
}

// Images are built without the workspace. So the go.mod and go.sum of each module must have all that its packages and
// their tests import. This test resolves the imports, which takes about a second per module. It does not compile: that
// the packages compile with the versions of their own go.mod is shown by the image builds of CI.
func TestModulesResolveWithoutWorkspace(t *testing.T) {
	for _, dir := range modules(t) {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-mod=readonly", "-deps", "-test", "./...")
		cmd.Dir = filepath.Join(root, dir)
		cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		var problems strings.Builder
		cmd.Stderr = &problems
		if err := cmd.Run(); err != nil {
			t.Errorf("resolving the imports of %s without the workspace: %v; run make tidy\n%s", dir, err,
				problems.String())
		}
	}
}

// rule lists what the packages below a folder may import from this repository. The first rule that matches applies.
type rule struct {
	packages string   // folder, relative to root
	allow    []string // folders; a trailing /... includes those below. Nil: nothing. Not nil: vocabulary, too
	why      string
}

// vocabulary are the small packages that every package may import whose rule has an allow list, even an empty one.
var vocabulary = []string{"platform/errs", "platform/memnet", "platform/names", "platform/pace", "platform/text"}

// Imports point to the left: platform/api <- platform <- services <- cmd, deploy.
var rules = []rule{
	{"platform/api", nil, "contracts import protobuf and gRPC only"},
	{"platform/errs", nil, "the small packages that all others use must not import them"},
	{"platform/memnet", nil, "the small packages that all others use must not import them"},
	{"platform/names/namestest", []string{"platform/names"}, "it tests the rule of names only"},
	{"platform/names", nil, "the small packages that all others use must not import them"},
	{"platform/pace", nil, "the small packages that all others use must not import them"},
	{"platform/text", nil, "the small packages that all others use must not import them"},
	{"platform/internal/lastknown", nil, "it stores bytes and must not depend on what they mean"},
	{"platform/trace", []string{}, "tracing must be usable without the rest of the platform"},
	{"platform/kv", []string{"platform/kv/..."}, "the store must not depend on what is stored in it"},
	{
		"platform/config",
		[]string{"platform/config/...", "platform/api/...", "platform/internal/lastknown"},
		"discovery and rpc use settings, so settings must not use them",
	},
	{"platform/discovery", []string{
		"platform/discovery/...", "platform/api/...", "platform/internal/lastknown",
		"platform/route",
	}, "discovery must work before settings do"},
	{
		"platform/route",
		[]string{"platform/route/...", "platform/config"},
		"the balancer must work with any source of instances",
	},
	{
		"platform/httpapi",
		[]string{"platform/httpapi/...", "platform/api/circuits/v1"},
		"an HTTP API must work with any service",
	},
	{"platform/load", []string{"platform/api/..."}, "circuit and services use load, so load must not use them"},
	{
		"platform/circuit",
		[]string{
			"platform/circuit/...", "platform/api/...", "platform/config", "platform/httpapi/...",
			"platform/load",
		},
		"a circuit must work with any transport",
	},
	{
		"platform/retry",
		[]string{"platform/retry", "platform/circuit", "platform/config", "platform/api/circuits/v1"},
		"a retry must work with any transport",
	},
	{
		"platform/overload",
		[]string{"platform/overload/...", "platform/config", "platform/httpapi/..."},
		"a limiter must work with any transport",
	},
	{"platform/rpc", []string{"platform/..."}, "rpc combines the packages of the platform and must not use a service"},
	{
		"platform/service",
		[]string{"platform/..."},
		"service combines the packages of the platform and must not use a service",
	},
	{"platform", nil, "the package holds the documentation only"},
	{
		"services/cinema",
		[]string{"platform/...", "services/cinema/..."},
		"the services of cinema share one module and must not import other services",
	},
	{
		"services/*",
		[]string{"platform/...", "services/*/..."},
		"a service must not import another one; it calls it through its contract",
	},
	{
		"cmd/bijou",
		[]string{"platform/...", "cmd/bijou/..."},
		"the command line calls services through their contracts, as other programs do",
	},
	{"deploy/e2e", []string{"..."}, "the end-to-end tests start all services"},
}

func TestImportsPointDown(t *testing.T) {
	for _, f := range files(t, func(p string) bool {
		return strings.HasSuffix(p, ".go") &&
			!strings.HasPrefix(p, "tools/")
	}) {
		src, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range src.Imports {
			checkImport(t, f, strings.Trim(im.Path.Value, `"`))
		}
	}
}

func checkImport(t *testing.T, file, imported string) {
	dir := path.Dir(file)
	if strings.HasPrefix(imported, "go.etcd.io/etcd/") && !strings.HasPrefix(dir, "platform/kv/kvetcd") &&
		dir != "services/etcd" {
		t.Errorf("%s imports %s: only platform/kv/kvetcd and services/etcd may use etcd", file, imported)
	}
	if strings.HasPrefix(imported, "go.etcd.io/etcd/server/") && dir != "platform/kv/kvetcd/etcdtest" &&
		dir != "services/etcd" {
		t.Errorf("%s imports %s: only etcdtest and services/etcd may run an etcd server, see ADR 20", file, imported)
	}
	if strings.HasPrefix(imported, "go.opentelemetry.io/otel/exporters/") {
		t.Errorf("%s imports %s: platform/trace exports spans, see ADR 28", file, imported)
	}
	if strings.HasPrefix(imported, "go.opentelemetry.io/otel/sdk") && dir != "platform/trace" &&
		!strings.HasSuffix(file, "_test.go") {
		t.Errorf("%s imports %s: spans are those of platform/trace, see ADR 28", file, imported)
	}
	target, ok := strings.CutPrefix(imported, "bijou.dev/")
	if !ok || target == dir {
		return
	}
	for _, r := range rules {
		if own, ok := matchFolder(r.packages, dir); ok {
			word := r.allow != nil && slices.Contains(vocabulary, target)
			if !word && !allowed(r.allow, own, target) {
				t.Errorf("%s imports %s: %s", file, imported, r.why)
			}
			return
		}
	}
	t.Errorf("%s: no import rule covers its folder; add one", file)
}

// matchFolder reports whether dir is pattern or below it, and which folder "*" stands for.
func matchFolder(pattern, dir string) (own string, ok bool) {
	if prefix, star := strings.CutSuffix(pattern, "/*"); star {
		rest, found := strings.CutPrefix(dir, prefix+"/")
		name, _, _ := strings.Cut(rest, "/")
		return name, found
	}
	return "", dir == pattern || strings.HasPrefix(dir, pattern+"/")
}

func allowed(allow []string, own, target string) bool {
	for _, a := range allow {
		a = strings.Replace(a, "/*/", "/"+own+"/", 1)
		prefix, below := strings.CutSuffix(a, "...")
		prefix = strings.TrimSuffix(prefix, "/")
		if target == prefix || below && (prefix == "" || strings.HasPrefix(target, prefix+"/")) {
			return true
		}
	}
	return false
}

func TestImportRulesRefuseOtherFolders(t *testing.T) {
	for _, c := range []struct {
		allow       []string
		own, target string
		want        bool
	}{
		{[]string{"platform/...", "services/*/..."}, "config", "services/config/configtest", true},
		{[]string{"platform/...", "services/*/..."}, "config", "services/discovery", false},
		{[]string{"platform/..."}, "", "services/config", false},
		{[]string{"platform/errs"}, "", "platform/errs/x", false},
		{nil, "", "platform/errs", false},
		{[]string{"..."}, "", "services/config", true},
	} {
		if got := allowed(c.allow, c.own, c.target); got != c.want {
			t.Errorf("allowed(%v, %q, %q) = %v, want %v", c.allow, c.own, c.target, got, c.want)
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	docs := map[string][]string{}
	for _, f := range files(t, func(p string) bool {
		return strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, ".pb.go") && !strings.HasPrefix(p, "tools/")
	}) {
		src, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f), nil,
			parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		key := path.Dir(f)
		if strings.HasSuffix(src.Name.Name, "_test") {
			continue // a test package needs no comment
		}
		docs[key] = append(docs[key], fileOfComment(src, f)...)
	}
	for dir, found := range docs {
		if len(found) != 1 {
			t.Errorf("%s: %d files have a package comment, %v; want one", dir, len(found), found)
		}
	}
}

// fileOfComment returns the name of a file that has a package comment and is not generated, else nothing.
func fileOfComment(src *ast.File, file string) []string {
	if src.Doc == nil || ast.IsGenerated(src) {
		return nil
	}
	return []string{path.Base(file)}
}

func TestPackagesAreNamedAfterTheirContent(t *testing.T) {
	bad := []string{"util", "utils", "common", "helpers", "helper", "misc", "base", "shared", "lib"}
	for _, f := range files(t, func(p string) bool { return strings.HasSuffix(p, ".go") }) {
		if name := path.Base(path.Dir(f)); slices.Contains(bad, name) {
			t.Errorf("%s: name the package after what it holds", path.Dir(f))
		}
	}
}

func TestTestsSleepOnlyInFakeTime(t *testing.T) {
	for _, f := range files(t, func(p string) bool {
		return strings.HasSuffix(p, "_test.go") && !strings.HasPrefix(p, "deploy/e2e/policy/")
	}) {
		src, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "time.Sleep(") && !strings.Contains(string(src), `"testing/synctest"`) {
			t.Errorf("%s sleeps in real time; wait for the event itself, or use testing/synctest", f)
		}
	}
}

func TestMakefileIsShortAndHasHelp(t *testing.T) {
	src, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`(?m)^([a-z][a-z-]*):([^=\n]*)$`).FindAllStringSubmatch(string(src), -1)
	if len(targets) == 0 || len(targets) > 20 {
		t.Errorf("Makefile has %d targets, want 1 to 20", len(targets))
	}
	for _, m := range targets {
		if !strings.Contains(m[2], "##") {
			t.Errorf("Makefile target %s has no ## help", m[1])
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s#]+)(?:#[^)\s]*)?\)`)

func TestDocumentLinksHaveTargets(t *testing.T) {
	for _, f := range files(t, func(p string) bool { return strings.HasSuffix(p, ".md") }) {
		src, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(src), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(f), m[1])); err != nil {
				t.Errorf("%s: the link to %s has no target; correct it", f, m[1])
			}
		}
	}
}

func TestEveryServiceHasReadmeAndRunbook(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(root, "services"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, p := range []string{"services/" + e.Name() + "/README.md", "docs/runbooks/" + e.Name() + ".md"} {
			if _, err := os.Stat(filepath.Join(root, p)); err != nil {
				t.Errorf("there is no %s; write it for new engineers and for those on call", p)
			}
		}
	}
}
