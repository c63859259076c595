// Package cli is the command line: each command is a struct whose fields are its flags and arguments.
//
// Commands print to standard output what was asked for and to standard error everything else. With --json the output
// is the answer of the API. What went wrong decides the exit code, see [ExitFailed] and its neighbours.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/cmd/bijou/stack"
	"bijou.dev/platform/errs"
	"github.com/alecthomas/kong"
)

// Exit codes of every command.
const (
	ExitOK          = 0 // done
	ExitFailed      = 1 // it did not work, or only in part
	ExitUsage       = 2 // the command line makes no sense
	ExitNotFound    = 3 // there is no such instance, setting, trace, log ...
	ExitRefused     = 4 // the platform said no and changed nothing
	ExitUnreachable = 5 // no stack is running, or the service that should answer does not
)

// World is the outside world of a command.
type World struct {
	// Args are the arguments after the program's name.
	Args           []string
	Stdout, Stderr io.Writer
	// Environ are the variables, KEY=value.
	Environ []string
	// Now ends when there is no more time for an orderly end.
	Now context.Context //nolint:containedctx // it is the second signal
}

func (w World) getenv(name string) string {
	for _, pair := range w.Environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// program is the grammar of the command line.
type program struct {
	File      string   `type:"path" placeholder:"FILE" help:"The compose file (default: the nearest compose.yaml upwards from here; variable BIJOU_FILE)."`
	Dir       string   `type:"path" placeholder:"DIR" help:"Folder for volumes, logs and the record of a run (default: .bijou beside the compose file; variable BIJOU_DIR)."`
	Discovery []string `placeholder:"HOST:PORT" help:"Ask the registry at these addresses where services are, instead of the stack that runs here (variable BIJOU_DISCOVERY)."`
	JSON      bool     `name:"json" help:"Print JSON."`

	Up      upCmd      `cmd:"" group:"Stack on this machine" help:"Run the compose file as processes of this machine."`
	Down    downCmd    `cmd:"" group:"Stack on this machine" help:"Stop the stack that runs here."`
	Status  statusCmd  `cmd:"" group:"Stack on this machine" help:"Show every instance: health, memory, restarts, addresses."`
	Logs    logsCmd    `cmd:"" group:"Stack on this machine" help:"Show what instances have written."`
	Kill    killCmd    `cmd:"" group:"Stack on this machine" help:"Kill an instance without warning."`
	Restart restartCmd `cmd:"" group:"Stack on this machine" help:"Stop an instance in order and start it again."`

	Services servicesCmd `cmd:"" group:"Platform" help:"List what the registry knows: services, instances, zones, versions, status. Take an instance out."`
	Map      mapCmd      `cmd:"" group:"Platform" help:"Show who calls whom, how often and how well."`
	Routes   routesCmd   `cmd:"" group:"Platform" help:"Show where the edge sends requests, and the instances behind."`
	Config   configCmd   `cmd:"" group:"Platform" help:"Read and publish settings."`
	Circuits circuitsCmd `cmd:"" group:"Platform" help:"Show circuit breakers, and force them open or closed."`
	Trace    traceCmd    `cmd:"" group:"Platform" help:"Search traces, or draw one as a waterfall."`

	Doctor     doctorCmd     `cmd:"" group:"This program" help:"Say what is missing on this machine, and what to do about it."`
	Completion completionCmd `cmd:"" group:"This program" help:"Print the script that completes this command in a shell."`
	Version    versionCmd    `cmd:"" group:"This program" help:"Print the version."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`
}

const description = `Runs the Bijou platform on this machine and talks to one that runs.

Start with "bijou doctor", then "bijou up". Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable.`

// env is what commands work with.
type env struct {
	World
	style   term.Style
	columns int
	// tableColumns is the width of a table; 0 where the output is no terminal.
	tableColumns int
	program      *program
	model        *kong.Application
}

// Main runs the command that the arguments name and returns the exit code. The command is asked to end with ctx.
func Main(ctx context.Context, w World) int {
	e := &env{World: w, program: &program{}}
	isTerminal, columns := term.Size(w.Stdout)
	e.columns = columns
	if isTerminal {
		e.tableColumns = columns
	}
	e.style.On = isTerminal && w.getenv("NO_COLOR") == ""
	parser, left := e.parser()
	command, err := parser.Parse(w.Args)
	if *left { // help was asked for and given
		return ExitOK
	}
	if err != nil {
		return e.usage(err)
	}
	e.fromVariables()
	command.BindTo(ctx, (*context.Context)(nil))
	return e.exit(command.Run(e))
}

func (e *env) parser() (*kong.Kong, *bool) {
	left := new(bool)
	parser := kong.Must(e.program,
		kong.Name("bijou"),
		kong.Description(description),
		kong.Writers(e.Stdout, e.Stderr),
		kong.Exit(func(int) { *left = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
	)
	e.model = parser.Model
	return parser, left
}

// fromVariables fills in the flags that were not given.
func (e *env) fromVariables() {
	p := e.program
	if p.File == "" {
		p.File = e.getenv("BIJOU_FILE")
	}
	if p.Dir == "" {
		p.Dir = e.getenv("BIJOU_DIR")
	}
	if seeds := e.getenv("BIJOU_DISCOVERY"); len(p.Discovery) == 0 && seeds != "" {
		p.Discovery = strings.Split(seeds, ",")
	}
}

// usageError marks a mistake on the command line that only the command itself could see.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func (e *env) usage(err error) int {
	e.notef("bijou: %v\n", err)
	if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil {
		e.notef("run `%s --help`\n", strings.TrimSpace("bijou "+commandPath(parse.Context)))
	}
	return ExitUsage
}

// commandPath names the command as far as it was understood: "config set".
func commandPath(c *kong.Context) string {
	var words []string
	for _, step := range c.Path {
		if step.Command != nil {
			words = append(words, step.Command.Name)
		}
	}
	return strings.Join(words, " ")
}

// exit reports the error of a command and picks the exit code.
func (e *env) exit(err error) int {
	if err == nil {
		return ExitOK
	}
	if u, ok := errors.AsType[usageError](err); ok {
		return e.usage(u.error)
	}
	e.printError(err)
	switch {
	case errors.Is(err, stack.ErrNotRunning):
		return ExitUnreachable
	case errors.Is(err, stack.ErrNoInstance):
		return ExitNotFound
	}
	return exitOfKind(errs.KindOf(err))
}

// printError prints an error. Only what a compiler or a configuration checker writes has several lines; further lines
// are indented, so that none looks like a line of its own.
func (e *env) printError(err error) {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	e.notef("%s %s\n", e.style.Red("bijou:"), lines[0])
	for _, line := range lines[1:] {
		e.notef("  %s\n", strings.ReplaceAll(line, "\t", "    "))
	}
}

func exitOfKind(kind errs.Kind) int {
	switch kind {
	case errs.NotFound:
		return ExitNotFound
	case errs.Invalid, errs.Exists, errs.Conflict, errs.Precondition, errs.Unauthenticated, errs.Denied, errs.Exhausted:
		return ExitRefused
	case errs.Unavailable:
		return ExitUnreachable
	case errs.Internal, errs.Timeout, errs.Canceled, errs.Unimplemented:
	}
	return ExitFailed
}

// composeFile finds the compose file.
func (e *env) composeFile() (string, error) {
	if e.program.File != "" {
		return filepath.Abs(e.program.File)
	}
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the compose file: %w", err)
	}
	return compose.Find(here)
}

// dir finds the folder of the stack.
func (e *env) dir() (string, error) {
	if e.program.Dir != "" {
		return filepath.Abs(e.program.Dir)
	}
	file, err := e.composeFile()
	if err != nil {
		return "", err
	}
	return stack.DefaultDir(file), nil
}

// attach finds the stack that runs here.
func (e *env) attach() (*stack.Remote, error) {
	dir, err := e.dir()
	if err != nil {
		return nil, err
	}
	return stack.Attach(dir)
}

// printf prints to standard output. Text from outside is escaped, see [term.Painted].
func (e *env) printf(format string, args ...any) error {
	return term.Fprintf(e.Stdout, format, args...)
}

// notef prints to standard error what was not asked for but helps.
func (e *env) notef(format string, args ...any) { _ = term.Fprintf(e.Stderr, format, args...) }

func (e *env) table(t *term.Table) error { return t.Write(e.Stdout, e.style, e.tableColumns) }

func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
