package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"bijou.dev/cmd/bijou/internal/compose"
	"golang.org/x/sync/errgroup"
)

// Build builds the binaries of all services of a compose file into the folder bin, for [Options].Bin. Go's cache makes
// a second build quick.
func Build(ctx context.Context, file, bin string, progress func(Step)) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("finding %s: %w", file, err)
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return fmt.Errorf("finding %s: %w", bin, err)
	}
	if progress == nil {
		progress = func(Step) {}
	}
	env := environ()
	project, err := compose.Load(ctx, file, env)
	if err != nil {
		return err
	}
	var mains []string
	for _, service := range project.Services {
		if service.Build != nil && service.Build.Args["SERVICE"] != nil {
			mains = append(mains, path.Clean(*service.Build.Args["SERVICE"]))
		}
	}
	slices.Sort(mains)
	b := builder{root: filepath.Dir(file), bin: bin, env: env, progress: progress}
	return b.all(ctx, slices.Compact(mains))
}

// environ is the environment of this process, the default of [Options] and [Build].
func environ() []string { return os.Environ() } //nolint:forbidigo // a child gets its parent's environment

// program is the file that the main package services/<main> is built into.
func (s *Stack) program(main string) string {
	return filepath.Join(s.opts.Bin, moduleOf(main), path.Base(main))
}

// moduleOf is the folder of the module below services/ that has the main package: its first element.
func moduleOf(main string) string {
	module, _, _ := strings.Cut(main, "/")
	return module
}

// builder runs one `go build` per module, as images are built: outside the workspace.
type builder struct {
	root, bin string
	env       []string
	progress  func(Step)
}

func (b builder) all(ctx context.Context, mains []string) error {
	modules := map[string][]string{}
	for _, main := range mains {
		modules[moduleOf(main)] = append(modules[moduleOf(main)], main)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	var done atomic.Int32
	for module, mains := range modules {
		group.Go(func() error {
			b.progress(Step{What: "building " + module, Done: int(done.Load()), Total: len(modules)})
			if err := b.module(ctx, module, mains); err != nil {
				return err
			}
			b.progress(Step{What: "built " + module, Done: int(done.Add(1)), Total: len(modules)})
			return nil
		})
	}
	return group.Wait()
}

func (b builder) module(ctx context.Context, module string, mains []string) error {
	bin := filepath.Join(b.bin, module)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("building into %s: %w", bin, err)
	}
	// A binary without the revision in it is linked again only when its code changes, not after every commit.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", bin + string(filepath.Separator)}
	for _, main := range mains {
		_, pkg, _ := strings.Cut(main, "/")
		args = append(args, "./"+pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the paths are those of the compose file
	cmd.Dir = filepath.Join(b.root, "services", module)
	cmd.Env = append(slices.Clone(b.env), "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("building services: install Go from https://go.dev/dl first: %w", err)
	default:
		return fmt.Errorf("building %s: %w\n%s", strings.Join(mains, ", "), err, bytes.TrimSpace(out))
	}
}
