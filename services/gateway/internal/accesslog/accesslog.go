// Package accesslog has the forms of a line in the access log.
package accesslog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/syntax"
)

// Bounds of a form.
const (
	maxFields   = 32
	maxTemplate = 1024 // bytes
)

// Settings is the setting gateway.accessLog.form. The zero value is a line of JSON for each request, with the fields of
// before.
type Settings struct {
	// Fields are those of a line of JSON, in their order. Empty: method, host, path, route, called, by, status, bytes,
	// took, attempts, fault, client, identity and request_id.
	Fields []string `json:"fields,omitempty"`
	// Template is a line of text: common, combined, or a text with fields in braces. "{{" and "}}" are braces.
	// Empty: JSON.
	Template string `json:"template,omitempty"`
	// Share is the part of the requests without a fault that get a line, above 0 up to 1. Zero: all.
	Share float64 `json:"share,omitempty"`
}

// templates have names.
var templates = map[string]string{
	"common": `{client} - {identity} [{clf_time}] "{method} {path} HTTP/{protocol}" {status} {bytes}`,
	"combined": `{client} - {identity} [{clf_time}] "{method} {path} HTTP/{protocol}" {status} {bytes} ` +
		`"{header:Referer}" "{header:User-Agent}"`,
}

// Form is Settings, ready for use. It does not change.
type Form struct {
	share   float64 // 1: all
	fields  []field // of JSON; nil: the fields of before
	parts   []part  // of a template; nil: JSON
	traceID bool    // one of parts is the trace id
}

// part is a piece of a template: text, or a field if text is empty.
type part struct {
	text  string
	field field
}

// field is a value of a line.
type field struct {
	kind   kind
	key    string // in JSON
	header string // canonical name; empty: none
}

// kind says where a value comes from.
type kind uint8

const (
	kindHeader kind = iota
	kindTime
	kindCLFTime
	kindMethod
	kindHost
	kindPath
	kindQuery
	kindProtocol
	kindScheme
	kindRoute
	kindCalled
	kindBy
	kindStatus
	kindBytes
	kindTook
	kindAttempts
	kindFault
	kindClient
	kindPeer
	kindIdentity
	kindRequestID
	kindTraceID
	kindShare
)

// names are those of fields. Lines of JSON have a time and a trace id in any case.
var names = []struct {
	name     string
	kind     kind
	textOnly bool
}{
	{"time", kindTime, true},
	{"clf_time", kindCLFTime, true},
	{"trace_id", kindTraceID, true},
	{"method", kindMethod, false},
	{"host", kindHost, false},
	{"path", kindPath, false},
	{"query", kindQuery, false},
	{"protocol", kindProtocol, false},
	{"scheme", kindScheme, false},
	{"route", kindRoute, false},
	{"called", kindCalled, false},
	{"by", kindBy, false},
	{"status", kindStatus, false},
	{"bytes", kindBytes, false},
	{"took", kindTook, false},
	{"attempts", kindAttempts, false},
	{"fault", kindFault, false},
	{"client", kindClient, false},
	{"peer", kindPeer, false},
	{"identity", kindIdentity, false},
	{"request_id", kindRequestID, false},
	{"share", kindShare, false},
}

// JSONSchema is the schema by which the config service checks the setting when it is published. It accepts all that
// Validate accepts.
func (Settings) JSONSchema() string {
	var known []string
	for _, n := range names {
		if !n.textOnly {
			known = append(known, n.name)
		}
	}
	return fmt.Sprintf(`{"type": "object", "additionalProperties": false, "properties": {`+
		`"fields": {"type": ["array", "null"], "maxItems": %d, "items": {"type": "string", `+
		`"description": "must be %s or header:NAME", "pattern": "^(%s|header:[!#$%%&'*+.^_`+"`"+`|~0-9A-Za-z-]+)$"}}, `+
		`"template": {"type": "string", "maxLength": %d, "description": "must be common, combined or a text of at most %d `+
		`bytes with fields in braces"}, `+
		`"share": {"type": "number", "minimum": 0, "maximum": 1, "description": "must be above 0 and at most 1"}}}`,
		maxFields, strings.Join(known, ", "), strings.Join(known, "|"), maxTemplate, maxTemplate)
}

// Validate returns an error that names the field.
func (s Settings) Validate() error {
	_, err := Compile(s)
	return err
}

// Compile makes the form ready for use.
func Compile(s Settings) (*Form, error) {
	f := &Form{share: s.Share}
	refuse := func(field string, err error) (*Form, error) {
		return nil, errs.Errorf(errs.Invalid, "form of the access log").Field(field, err.Error())
	}
	if s.Share == 0 {
		f.share = 1
	}
	if s.Share < 0 || s.Share > 1 {
		return refuse("share", fmt.Errorf("must be above 0 and at most 1, is %v", s.Share))
	}
	if s.Template != "" && len(s.Fields) > 0 {
		return refuse("fields", errors.New("must be empty when template is set"))
	}
	if len(s.Fields) > maxFields {
		return refuse("fields", fmt.Errorf("must have at most %d names, has %d", maxFields, len(s.Fields)))
	}
	for i, name := range s.Fields {
		v, err := parseField(name, false)
		if err == nil && slices.ContainsFunc(f.fields, func(other field) bool { return other.key == v.key }) {
			err = fmt.Errorf("is there twice: %q", name)
		}
		if err != nil {
			return refuse(fmt.Sprintf("fields[%d]", i), err)
		}
		f.fields = append(f.fields, v)
	}
	if s.Template != "" {
		var err error
		if f.parts, err = parseTemplate(s.Template); err != nil {
			return refuse("template", err)
		}
		f.traceID = slices.ContainsFunc(f.parts, func(p part) bool { return p.field.kind == kindTraceID })
	}
	return f, nil
}

// parseField returns the field with a name.
func parseField(name string, inText bool) (field, error) {
	if header, ok := strings.CutPrefix(name, "header:"); ok {
		switch header = syntax.Canonical(header); {
		case !syntax.IsToken(header):
			return field{}, fmt.Errorf("must have the name of a header field behind header:, is %q", name)
		case header == "Authorization" || header == "Proxy-Authorization" || header == "Cookie" || header == "Host":
			return field{}, fmt.Errorf("must not be %s: it is a secret, or has a field of its own", header)
		}
		key := "header_" + strings.ReplaceAll(strings.ToLower(header), "-", "_")
		return field{kind: kindHeader, key: key, header: header}, nil
	}
	var known []string
	for _, n := range names {
		if n.textOnly && !inText {
			continue
		}
		if n.name == name {
			return field{kind: n.kind, key: name}, nil
		}
		known = append(known, n.name)
	}
	return field{}, fmt.Errorf("must be %s or header:NAME, is %q", strings.Join(known, ", "), name)
}

// parseTemplate cuts a template into text and fields.
func parseTemplate(text string) (parts []part, err error) {
	if own, ok := templates[text]; ok {
		text = own
	}
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("must have at most %d bytes, has %d", maxTemplate, len(text))
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return nil, fmt.Errorf("must be one line without control characters, is %q", text)
	}
	fields := 0
	for text != "" {
		i := strings.IndexAny(text, "{}")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			parts = append(parts, part{text: text[:i]})
			text = text[i:]
			continue
		}
		if strings.HasPrefix(text, "{{") || strings.HasPrefix(text, "}}") {
			parts = append(parts, part{text: text[:1]})
			text = text[2:]
			continue
		}
		name, rest, ok := strings.Cut(text[1:], "}")
		if text[0] == '}' || !ok {
			return nil, fmt.Errorf("must have a closing brace for each opening one; a brace itself is {{ or }}, is %q", text)
		}
		v, err := parseField(name, true)
		if err != nil {
			return nil, fmt.Errorf("has a field that %w", err)
		}
		if fields++; fields > maxFields {
			return nil, fmt.Errorf("must have at most %d fields", maxFields)
		}
		parts = append(parts, part{field: v})
		text = rest
	}
	if fields == 0 {
		return nil, errors.New("must have a field in braces, or be common or combined")
	}
	return parts, nil
}
