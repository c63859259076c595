// Package cli is the command line: each command is a struct whose fields are its flags and arguments.
//
// A command prints its result to standard output and everything else to standard error. With --json the result is the
// response of the API. The kind of an error decides the exit code: see [ExitFailed] and the constants beside it.
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
	"time"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/cmd/bijou/stack"
	"bijou.dev/platform/errs"
	"github.com/alecthomas/kong"
)

// Exit codes of every command.
const (
	ExitOK          = 0 // done
	ExitFailed      = 1 // failed, or done only in part
	ExitUsage       = 2 // a command, argument or flag is wrong
	ExitNotFound    = 3 // there is no such instance, service, setting, trace or log
	ExitRefused     = 4 // refused, nothing was changed
	ExitUnreachable = 5 // no stack is running, or a service does not answer
)

// World is what a command needs of its process: arguments, output, environment and the second signal.
type World struct {
	// Args are the arguments after the program's name.
	Args           []string
	Stdout, Stderr io.Writer
	// Environ are the variables, KEY=value.
	Environ []string
	// Now ends when an orderly stop must not wait any longer.
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
	File      string   `type:"path" placeholder:"FILE" help:"The compose file (default: compose.yaml here or in a folder above; variable BIJOU_FILE)."`
	Dir       string   `type:"path" placeholder:"DIR" help:"Folder for volumes, logs and run.json (default: .bijou beside the compose file; variable BIJOU_DIR)."`
	Discovery []string `placeholder:"HOST:PORT" help:"Find services with the registry at these addresses (default: the stack that runs here; variable BIJOU_DISCOVERY)."`
	JSON      bool     `name:"json" help:"Print JSON."`

	Up      upCmd      `cmd:"" group:"Stack on this machine" help:"Run the compose file as processes of this machine."`
	Down    downCmd    `cmd:"" group:"Stack on this machine" help:"Stop the stack that runs here."`
	Status  statusCmd  `cmd:"" group:"Stack on this machine" help:"Show every instance: health, memory, restarts, addresses."`
	Logs    logsCmd    `cmd:"" group:"Stack on this machine" help:"Show the logs of instances."`
	Kill    killCmd    `cmd:"" group:"Stack on this machine" help:"Kill an instance without warning."`
	Restart restartCmd `cmd:"" group:"Stack on this machine" help:"Stop an instance in order and start it again."`

	Services servicesCmd `cmd:"" group:"Platform" help:"List instances with zone, version and status. Take one out of service."`
	Map      mapCmd      `cmd:"" group:"Platform" help:"Show which service calls which: rate, errors, percentiles."`
	Routes   routesCmd   `cmd:"" group:"Platform" help:"Show the routes of the edge and the instances behind it."`
	Route    routeCmd    `cmd:"" group:"Platform" help:"Add and remove routes of the edge."`
	Config   configCmd   `cmd:"" group:"Platform" help:"Read and publish settings."`
	Circuits circuitsCmd `cmd:"" group:"Platform" help:"Show circuit breakers, and force them open or closed."`
	Trace    traceCmd    `cmd:"" group:"Platform" help:"Search traces, or draw one as a waterfall."`

	Doctor     doctorCmd     `cmd:"" group:"This program" help:"Check what is missing on this machine."`
	Completion completionCmd `cmd:"" group:"This program" help:"Print the completion script for a shell."`
	Version    versionCmd    `cmd:"" group:"This program" help:"Print the version."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`
}

const description = `Runs the Bijou platform on this machine, and queries and changes a running platform.

Start with "bijou doctor", then "bijou up".
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 unreachable.`

// env is what the Run methods of commands get.
type env struct {
	World
	style   term.Style
	columns int
	// tableColumns is the width of a table; 0 if the output is not a terminal.
	tableColumns int
	program      *program
	model        *kong.Application
}

// Main runs the command that the arguments name and returns the exit code. The command stops in order when ctx ends.
func Main(ctx context.Context, w World) int {
	e := &env{World: w, program: &program{}}
	isTerminal, columns := term.Size(w.Stdout)
	e.columns = columns
	if isTerminal {
		e.tableColumns = columns
	}
	e.style.On = isTerminal && w.getenv("NO_COLOR") == ""
	parser, helped := e.parser()
	command, err := parser.Parse(w.Args)
	if *helped {
		return ExitOK
	}
	if err != nil {
		return e.usage(err)
	}
	e.fromVariables()
	command.BindTo(ctx, (*context.Context)(nil))
	return e.exit(command.Run(e))
}

// parser returns the parser, and whether it has printed the help that was asked for.
func (e *env) parser() (*kong.Kong, *bool) {
	helped := new(bool)
	parser := kong.Must(e.program,
		kong.Name("bijou"),
		kong.Description(description),
		kong.Writers(e.Stdout, e.Stderr),
		kong.Exit(func(int) { *helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{
			Compact: true, FlagsLast: true, NoExpandSubcommands: true, WrapUpperBound: 110,
		}),
	)
	e.model = parser.Model
	return parser, helped
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

// usageError marks a mistake on the command line that the parser cannot detect.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// notNegative refuses a negative duration, which would have the same effect as none.
func notNegative(flag string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s must not be negative, is %v", flag, d)
	}
	return nil
}

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

// printError prints an error. Errors of compilers and of the compose library have several lines; all but the first are
// indented, so that they do not look like other messages.
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

// notef prints to standard error what is not the result.
func (e *env) notef(format string, args ...any) { _ = term.Fprintf(e.Stderr, format, args...) }

func (e *env) table(t *term.Table) error { return t.Write(e.Stdout, e.style, e.tableColumns) }

func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
