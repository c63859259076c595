// Package errorpage has the pages that browsers get for failures, in the words of each site.
package errorpage

import (
	"cmp"
	"fmt"
	"html"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/syntax"
)

// Bounds of the setting. A value has at most 128 characters that need no escape, so 32 of them add at most 4 KiB.
const (
	maxPages  = 100
	maxHTML   = 64 << 10 // bytes
	maxValues = 32       // placeholders in a page
)

// Page is a page for failures that the edge answers itself.
type Page struct {
	// Host is a host name without port, or "*.example.org" for all names below it. Empty: any host.
	Host string `json:"host,omitempty"`
	// Status lists the statuses that the page is for, 400 to 599. Empty: all.
	Status []int `json:"status,omitempty"`
	// HTML is the page. {status}, {title} (the text of the status), {id} (the request id) and {trace} (the trace id, empty
	// if there is none) are replaced by values, escaped for HTML. Other braces are text. Required.
	HTML string `json:"html"`
}

// Pages is the setting gateway.errorPages. Nil: all failures get the page of the edge.
type Pages []Page

// JSONSchema is the schema by which the config service checks pages when they are published. It accepts all that
// Validate accepts.
func (Pages) JSONSchema() string {
	return fmt.Sprintf(`{"type": ["array", "null"], "maxItems": %d, "items": {"type": "object", `+
		`"additionalProperties": false, "required": ["html"], "properties": {`+
		`"host": {"description": "must be a host name without port, or \"*.\" and a host name", "type": "string", `+
		`"maxLength": 257, "pattern": "^((\\*\\.)?[-._~!$&'()+,;=%%\\[\\]A-Za-z0-9]+)?$"}, `+
		`"status": {"type": ["array", "null"], "items": {"description": "must be 400 to 599", "type": "integer", `+
		`"minimum": 400, "maximum": 599}}, `+
		`"html": {"description": "must be a page of at most %d bytes, whose only placeholders are {status}, {title}, {id} `+
		`and {trace}", "type": "string", "minLength": 1, "maxLength": %d, "pattern": "%s"}}}}`,
		maxPages, maxHTML, maxHTML, placeholders)
}

// placeholders matches a text in which each small word in braces is a known one.
const placeholders = `^([^{]|\\{\\}|\\{(status|title|id|trace)\\}|` +
	`(\\{[a-z]*)+([^a-z{}]|\\{\\}|\\{(status|title|id|trace)\\}|$))*$`

// Validate returns an error that names the page and the field.
func (p Pages) Validate() error {
	_, err := Compile(p)
	return err
}

// Table is Pages, ready for use. It does not change. Nil has no pages.
type Table struct {
	pages []page // the most specific first
}

type page struct {
	host   string // in lower case
	status []int
	parts  []part
}

// part is a piece of HTML, or the name of a value.
type part struct {
	text    string
	isValue bool
}

// Compile makes a table of pages.
func Compile(list Pages) (*Table, error) {
	if len(list) == 0 {
		return nil, nil //nolint:nilnil // a table without pages
	}
	if len(list) > maxPages {
		return nil, errs.Errorf(errs.Invalid, "error pages: must be at most %d, are %d", maxPages, len(list))
	}
	t := &Table{}
	seen := map[string]bool{}
	for i, p := range list {
		refuse := func(field, format string, args ...any) (*Table, error) {
			return nil, errs.Errorf(errs.Invalid, "error pages").Field(fmt.Sprintf("[%d].%s", i, field),
				fmt.Sprintf(format, args...))
		}
		host := strings.ToLower(p.Host)
		if host != "" && !syntax.IsHostPattern(host) {
			return refuse("host", `must be a host name without port, or "*." and a host name, is %q`, p.Host)
		}
		for k, status := range p.Status {
			if status < 400 || status > 599 {
				return refuse(fmt.Sprintf("status[%d]", k), "must be 400 to 599, is %d", status)
			}
		}
		statuses := p.Status
		if len(statuses) == 0 {
			statuses = []int{0} // all
		}
		for _, status := range statuses {
			key := host + " " + strconv.Itoa(status)
			if seen[key] {
				return refuse("host", "has two pages for the same status: %q", p.Host)
			}
			seen[key] = true
		}
		parts, err := parse(p.HTML)
		if err != nil {
			return refuse("html", "%v", err)
		}
		t.pages = append(t.pages, page{host, p.Status, parts})
	}
	slices.SortStableFunc(t.pages, func(a, b page) int {
		return cmp.Or(cmp.Compare(b.rank(), a.rank()), cmp.Compare(min(1, len(b.status)), min(1, len(a.status))))
	})
	return t, nil
}

// rank is above all for names, then grows with the length of a suffix.
func (p *page) rank() int {
	switch {
	case p.host == "":
		return 0
	case p.host[0] == '*':
		return len(p.host)
	}
	return 1 << 10
}

// parse cuts a page into text and values.
func parse(text string) (parts []part, err error) {
	if text == "" || len(text) > maxHTML {
		return nil, fmt.Errorf("must have 1 to %d bytes, has %d", maxHTML, len(text))
	}
	values, from := 0, 0
	for i := 0; i < len(text); i++ {
		if text[i] != '{' {
			continue
		}
		end := i + 1
		for end < len(text) && 'a' <= text[end] && text[end] <= 'z' {
			end++
		}
		if end == i+1 || end == len(text) || text[end] != '}' {
			continue // a brace of CSS
		}
		switch name := text[i+1 : end]; name {
		case "status", "title", "id", "trace":
			parts = append(parts, part{text: text[from:i]}, part{text: name, isValue: true})
			from = end + 1
			values++
		default:
			return nil, fmt.Errorf("has no placeholder {%s}; there are {status}, {title}, {id} and {trace}", name)
		}
	}
	if values > maxValues {
		return nil, fmt.Errorf("must have at most %d placeholders, has %d", maxValues, values)
	}
	return append(parts, part{text: text[from:]}), nil
}

// Values are what placeholders are replaced by.
type Values struct {
	Status    int
	ID, Trace string
}

// Page returns the page for a failure of a request for a host, which may have a port. Nil: there is none.
func (t *Table) Page(host string, v Values) []byte {
	if t == nil {
		return nil
	}
	host = syntax.HostName(host)
	for i := range t.pages {
		if p := &t.pages[i]; p.takes(host, v.Status) {
			return p.fill(v)
		}
	}
	return nil
}

func (p *page) takes(host string, status int) bool {
	if len(p.status) > 0 && !slices.Contains(p.status, status) {
		return false
	}
	return p.host == "" || syntax.MatchesHost(p.host, host)
}

func (p *page) fill(v Values) []byte {
	var out []byte
	for _, part := range p.parts {
		text := part.text
		if part.isValue {
			switch part.text {
			case "status":
				text = strconv.Itoa(v.Status)
			case "title":
				text = cmp.Or(http.StatusText(v.Status), "Error")
			case "id":
				text = v.ID
			case "trace":
				text = v.Trace
			}
			text = html.EscapeString(text)
		}
		out = append(out, text...)
	}
	return out
}
