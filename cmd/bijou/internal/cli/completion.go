package cli

import (
	"context"
	"fmt"
	"strings"

	"bijou.dev/cmd/bijou/internal/compose"
	"github.com/alecthomas/kong"
)

// The scripts ask the program itself, so they know every command and the instances that run.
var scripts = map[string]string{
	"bash": `_bijou() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(bijou __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _bijou bijou
`,
	"zsh": `#compdef bijou
_bijou() {
  local -a candidates
  candidates=("${(@f)$(bijou __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  candidates=("${(@)candidates//$'\t'/:}")
  _describe bijou candidates || _files
}
compdef _bijou bijou
`,
	"fish": `complete -c bijou -f -a '(bijou __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what `bijou completion --help` says beyond the flags.
func (completionCmd) Help() string {
	return `    source <(bijou completion bash)
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
	node, position := walk(e.model.Node, words)
	offer := func(word, about string) {
		if strings.HasPrefix(word, last) {
			fmt.Fprintf(e.Stdout, "%s\t%s\n", word, about)
		}
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
	if position < len(node.Positional) || len(node.Positional) > 0 && node.Positional[len(node.Positional)-1].IsSlice() {
		for _, word := range e.values(ctx, node.Positional[min(position, len(node.Positional)-1)]) {
			offer(word, "")
		}
	}
	return nil
}

// walk follows whole words down the grammar to a command and the number of arguments given to it.
func walk(node *kong.Node, words []string) (*kong.Node, int) {
	position := 0
	for i := 0; i < len(words); i++ {
		word := words[i]
		if strings.HasPrefix(word, "-") {
			if flag := findFlag(node, word); flag != nil && !flag.IsBool() && !strings.Contains(word, "=") {
				i++ // the flag's value
			}
			continue
		}
		if child := findChild(node, word); child != nil {
			node, position = child, 0
		} else {
			position++
		}
	}
	return node, position
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

// values are what may stand for an argument; empty when that is not known.
func (e *env) values(ctx context.Context, argument *kong.Positional) []string {
	if argument.Enum != "" {
		return strings.Split(argument.Enum, ",")
	}
	switch argument.Name {
	case "instance", "instances":
		run, err := e.running(ctx)
		if err != nil {
			return nil
		}
		var names []string
		for _, i := range run.Instances {
			names = append(names, i.Name)
		}
		return names
	case "services":
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
	return nil
}
