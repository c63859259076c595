package message

import (
	"iter"
	"net/http"
	"slices"
	"strings"
)

// Field is one line of a header or a trailer.
type Field struct {
	Name  string // canonical
	Value string
}

// Header is the lines of a header or a trailer in their order. Names are looked for one line after the other: headers
// are short, and a map would cost more to fill than it saves.
type Header []Field

// Get returns the value of the first line with a name. Empty: there is none.
func (h Header) Get(name string) string {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether there is a line with a name.
func (h Header) Has(name string) bool {
	for i := range h {
		if h[i].Name == name {
			return true
		}
	}
	return false
}

// Count is the number of lines with a name.
func (h Header) Count(name string) (n int) {
	for i := range h {
		if h[i].Name == name {
			n++
		}
	}
	return n
}

// Values returns the values of the lines with a name.
func (h Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h {
			if h[i].Name == name && !yield(h[i].Value) {
				return
			}
		}
	}
}

// Words returns the words of all comma separated lists with a name, without white space around them (RFC 9110, 5.6.1).
func (h Header) Words(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h {
			if h[i].Name != name {
				continue
			}
			for rest, more := h[i].Value, true; more; {
				var word string
				if word, rest, more = strings.Cut(rest, ","); !yield(strings.Trim(word, " \t")) {
					return
				}
			}
		}
	}
}

// HasWord reports whether one of the comma separated lists has a word, in any case.
func (h Header) HasWord(name, word string) bool {
	for w := range h.Words(name) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// Announced returns the names of the trailer that the header announces, without values.
func (h Header) Announced() (names Header) {
	for name := range h.Words("Trailer") {
		if name != "" {
			names.Add(Canonical(name), "")
		}
	}
	return names
}

// Add adds a line.
func (h *Header) Add(name, value string) { *h = append(*h, Field{name, value}) }

// Set replaces all lines with a name by one.
func (h *Header) Set(name, value string) {
	for i := range *h {
		if (*h)[i].Name == name {
			(*h)[i].Value = value
			rest := (*h)[i+1:]
			*h = append((*h)[:i+1], slices.DeleteFunc(rest, func(f Field) bool { return f.Name == name })...)
			return
		}
	}
	h.Add(name, value)
}

// Delete removes all lines with a name.
func (h *Header) Delete(name string) {
	if h.Has(name) {
		*h = slices.DeleteFunc(*h, func(f Field) bool { return f.Name == name })
	}
}

// FromHTTP adds the lines of h, those with the same name in their order.
func (h *Header) FromHTTP(from http.Header) {
	for name, lines := range from {
		for _, line := range lines {
			h.Add(name, line)
		}
	}
}

// HTTP returns the header as a map.
func (h Header) HTTP() http.Header {
	to := make(http.Header, len(h))
	for _, f := range h {
		to[f.Name] = append(to[f.Name], f.Value)
	}
	return to
}
