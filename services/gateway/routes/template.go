package routes

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Template is a text with variables in braces. "{{" is a brace.
//
//	{scheme}  http or https, as the client sees it
//	{host}    the host of the request, with its port
//	{path}    the path as it came, with its escapes
//	{rest}    what is behind the matched prefix, with its slash; the path if no prefix is matched
//	{query}   the query with its question mark, empty if there is none
//	{client}  the address of the client
//	{id}      the request's X-Request-Id
//	{1} {x}   a group of match.regexp, by number or name
type Template struct {
	parts []part
}

type part struct {
	text  string
	name  string // of the variable; empty: text
	group int    // of the regular expression; 0: none
}

// Vars are the values of the variables.
type Vars struct {
	Scheme, Host, Path, Rest, Query, Client, ID string
	// Groups are the groups of match.regexp, without escapes; the first is the whole path.
	Groups []string
}

func (v *Vars) get(name string) string {
	switch name {
	case "scheme":
		return v.Scheme
	case "host":
		return v.Host
	case "path":
		return v.Path
	case "rest":
		return v.Rest
	case "query":
		return v.Query
	case "client":
		return v.Client
	}
	return v.ID
}

var variables = []string{"scheme", "host", "path", "rest", "query", "client", "id"}

const maxTemplate = 2048 // bytes

// parseTemplate reads a template. Groups are the names of the groups of the regular expression, as regexp gives them.
func parseTemplate(text string, groups []string) (*Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("must have at most %d bytes, has %d", maxTemplate, len(text))
	}
	t := &Template{}
	for text != "" {
		i := strings.IndexAny(text, "{}")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			t.parts = append(t.parts, part{text: text[:i]})
			text = text[i:]
			continue
		}
		if strings.HasPrefix(text, "{{") {
			t.parts = append(t.parts, part{text: "{"})
			text = text[2:]
			continue
		}
		name, rest, ok := strings.Cut(text[1:], "}")
		if text[0] == '}' || !ok {
			return nil, fmt.Errorf("must have a closing brace for each opening one; a brace itself is {{, is %q", text)
		}
		p := part{name: name}
		if n, err := strconv.Atoi(name); err == nil && n > 0 && n < len(groups) {
			p.group = n
		} else if at := slices.Index(groups, name); at > 0 {
			p.group = at
		} else if !slices.Contains(variables, name) {
			return nil, fmt.Errorf("has no variable {%s}; there are {%s} and the groups of match.regexp", name,
				strings.Join(variables, "}, {"))
		}
		t.parts = append(t.parts, p)
		text = rest
	}
	return t, nil
}

// URL fills the template for a URL or a path: groups are escaped.
func (t *Template) URL(v *Vars) string {
	return t.fill(v, func(group string) string { return (&url.URL{Path: group}).EscapedPath() })
}

// Text fills the template for the value of a header field.
func (t *Template) Text(v *Vars) string { return t.fill(v, func(group string) string { return group }) }

func (t *Template) fill(v *Vars, escape func(string) string) string {
	if len(t.parts) == 1 && t.parts[0].name == "" {
		return t.parts[0].text
	}
	var b strings.Builder
	for i := range t.parts {
		switch p := &t.parts[i]; {
		case p.name == "":
			b.WriteString(p.text)
		case p.group > 0:
			if p.group < len(v.Groups) {
				b.WriteString(escape(v.Groups[p.group]))
			}
		default:
			b.WriteString(v.get(p.name))
		}
	}
	return b.String()
}
