package http2

import (
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"

	"golang.org/x/net/http2/hpack"
)

// block is a header block while it comes.
type block struct {
	most int // bytes of fields

	id     uint32 // of its stream; 0: there is none
	end    bool   // the stream ends with it
	itself bool   // the stream depends on itself
	bytes  int    // of fragments so far

	size     int // of its fields (RFC 9113, 6.5.2)
	tooLarge bool
	bad      string // why it is malformed; empty: it is not
	fields   message.Header

	method, scheme, authority, path, status, protocol string
	seen                                              uint8 // which of these have come
}

func (b *block) begin(id uint32, end bool, fields int) {
	*b = block{most: b.most, id: id, end: end, fields: make(message.Header, 0, fields)}
}

// Pseudo fields that have come.
const (
	hasMethod = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasStatus
	hasProtocol
)

// emit takes a field.
func (b *block) emit(f hpack.HeaderField) {
	if b.size += len(f.Name) + len(f.Value) + 32; b.size > b.most {
		b.tooLarge = true
		b.fields = nil
		return
	}
	switch {
	case b.bad != "":
	case strings.HasPrefix(f.Name, ":"):
		b.pseudo(f)
	case !isName(f.Name):
		b.bad = "the name of a field is not valid"
	case !isValue(f.Value):
		b.bad = "the value of a field is not valid"
	default:
		b.fields = append(b.fields, message.Field{Name: canonical(f.Name), Value: f.Value})
	}
}

func (b *block) pseudo(f hpack.HeaderField) {
	var to *string
	var which uint8
	switch f.Name {
	case ":method":
		to, which = &b.method, hasMethod
	case ":scheme":
		to, which = &b.scheme, hasScheme
	case ":authority":
		to, which = &b.authority, hasAuthority
	case ":path":
		to, which = &b.path, hasPath
	case ":status":
		to, which = &b.status, hasStatus
	case ":protocol":
		to, which = &b.protocol, hasProtocol
	default:
		b.bad = "a pseudo field is not known"
		return
	}
	switch {
	case len(b.fields) > 0:
		b.bad = "a pseudo field stands behind others"
	case b.seen&which != 0:
		b.bad = "a pseudo field stands there twice"
	case !isValue(f.Value):
		b.bad = "the value of a pseudo field is not valid"
	}
	*to = f.Value
	b.seen |= which
}

// isName reports whether s is a field's name in lower case.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !syntax.TokenChars[c] || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return s != ""
}

// isValue reports whether s is a field's value (RFC 9113, 8.2.1). White space around it is checked elsewhere.
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
