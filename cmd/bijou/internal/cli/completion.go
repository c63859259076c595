package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/stack"
	configv1 "bijou.dev/platform/api/config/v1"
	"github.com/alecthomas/kong"
)

// scripts maps a shell to its completion script. The script runs the program that was typed, bin/bijou as well as
// bijou, to get all candidates.
var scripts = map[string]string{
	"bash": `_bijou() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]/#\~/$HOME}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _bijou bijou
`,
	"zsh": `#compdef bijou
_bijou() {
  local -a candidates
  candidates=("${(@f)$(${~words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  candidates=("${(@)candidates//$'\t'/:}")
  _describe bijou candidates || _files
}
compdef _bijou bijou
`,
	"fish": `complete -c bijou -f -a '(eval (commandline -opc)[1] __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what `bijou completion --help` prints before the flags.
func (completionCmd) Help() string {
	return `For example:

    source <(bijou completion bash)
    bijou completion zsh > "${fpath[1]}/_bijou"
    bijou completion fish > ~/.config/fish/completions/bijou.fish`
}

// Run is `bijou completion`.
func (c *completionCmd) Run(e *env) error {
	_, err := fmt.Fprint(e.Stdout, scripts[c.Shell])
	return err
}

// completeCmd prints the candidates for the last of the words, with a tab and a description each.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// Run is `bijou __complete`.
func (c *completeCmd) Run(ctx context.Context, e *env) error {
	last, words := "", c.Words
	if n := len(words); n > 0 {
		last, words = words[n-1], words[:n-1]
	}
	offer := func(word, about string) {
		if strings.HasPrefix(word, last) {
			_ = e.printf("%s\t%s\n", word, about)
		}
	}
	node, position, flag := walk(e.model.Node, words)
	if flag != nil { // the last word is its value
		for _, word := range e.flagValues(ctx, flag) {
			offer(word, "")
		}
		return nil
	}
	if strings.HasPrefix(last, "-") {
		for _, flags := range node.AllFlags(true) {
			for _, flag := range flags {
				offer("--"+flag.Name, flag.Help)
			}
		}
		return nil
	}
	for _, child := range node.Children {
		if !child.Hidden {
			offer(child.Name, child.Help)
		}
	}
	if node.DefaultCmd != nil { // `bijou circuits web` is `bijou circuits list web`
		node = node.DefaultCmd
	}
	end := len(node.Positional) - 1
	if position <= end || end >= 0 && node.Positional[end].IsSlice() {
		for _, word := range e.values(ctx, node, node.Positional[min(position, end)]) {
			offer(word, "")
		}
	}
	return nil
}

// walk follows complete words down the grammar. It returns the command, the number of arguments that it already has,
// and the flag whose value comes next, or nil.
func walk(node *kong.Node, words []string) (_ *kong.Node, position int, open *kong.Flag) {
	for _, word := range words {
		if open != nil { // the flag's value
			open = nil
			continue
		}
		if strings.HasPrefix(word, "-") {
			if flag := findFlag(node, word); flag != nil && !flag.IsBool() {
				open = flag
			}
			continue
		}
		if child := findChild(node, word); child != nil {
			node, position = child, 0
		} else {
			position++
		}
	}
	return node, position, open
}

func findFlag(node *kong.Node, word string) *kong.Flag {
	for _, flags := range node.AllFlags(false) {
		for _, flag := range flags {
			if word == "--"+flag.Name || flag.Short != 0 && word == "-"+string(flag.Short) {
				return flag
			}
		}
	}
	return nil
}

func findChild(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// completionTimeout bounds the requests of a completion: a person has pressed Tab and waits.
const completionTimeout = 2 * time.Second

// values returns the candidates for an argument; none if they are not known.
func (e *env) values(ctx context.Context, command *kong.Node, argument *kong.Positional) []string {
	if argument.Enum != "" {
		return strings.Split(argument.Enum, ",")
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	switch argument.Name {
	case "instance":
		return e.names(ctx, instanceNames)
	case "instances": // `bijou logs` takes instances and services
		return append(e.names(ctx, serviceNames), e.names(ctx, instanceNames)...)
	case "service":
		return e.names(ctx, serviceNames)
	case "services":
		return e.composeServices(ctx)
	case "name", "prefix":
		if command.Parent.Name == "circuits" {
			return e.circuitNames(ctx)
		}
		return e.settingNames(ctx)
	}
	return nil
}

// flagValues returns the candidates for the value of a flag; none if they are not known.
func (e *env) flagValues(ctx context.Context, flag *kong.Flag) []string {
	switch flag.Name {
	case "app", "service", "caller":
		return e.names(ctx, serviceNames)
	case "instance":
		return e.names(ctx, instanceNames)
	}
	return nil
}

func instanceNames(i stack.Instance) string { return i.Name }
func serviceNames(i stack.Instance) string  { return i.Service }

// names returns a name of each instance that runs here, without duplicates.
func (e *env) names(ctx context.Context, name func(stack.Instance) string) []string {
	run, err := e.running(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range run.Instances {
		if n := name(i); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func (e *env) composeServices(ctx context.Context) []string {
	file, err := e.composeFile()
	if err != nil {
		return nil
	}
	project, err := compose.Load(ctx, file, e.Environ)
	if err != nil {
		return nil
	}
	return project.ServiceNames()
}

func (e *env) settingNames(ctx context.Context) (names []string) {
	_ = e.withConfig(ctx, func(client configv1.ConfigClient) error { // without an answer there is nothing to offer
		answer, err := ask(ctx, client.List, &configv1.ListRequest{})
		for _, l := range answer.GetProperties() {
			names = append(names, l.GetProperty().GetName())
		}
		return err
	})
	return names
}

func (e *env) circuitNames(ctx context.Context) []string {
	conn, err := e.dial(ctx, "circuits")
	if err != nil {
		return nil
	}
	defer conn.Close()
	names, _ := circuitNames(ctx, conn) // without an answer there is nothing to offer
	return names
}
