// Package bans knows which addresses are banned.
package bans

import (
	"fmt"
	"net/netip"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/syntax"
)

// maxEntries is how many entries a list may have.
const maxEntries = 10_000

// List is a list of addresses and networks: "192.0.2.7", "198.51.100.0/24", "2001:db8::/32".
type List []string

// JSONSchema is the schema by which the config service checks a list when it is published.
func (List) JSONSchema() string {
	return fmt.Sprintf(`{"type": ["array", "null"], "maxItems": %d, "items": {"type": "string", `+
		`"description": "must be an address or a network like \"10.0.0.0/8\"", `+
		`"pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"}}`, maxEntries)
}

// Validate returns an error that names the entry that cannot be read.
func (l List) Validate() error {
	_, err := Compile(l)
	return err
}

// Table is a list ready for use. It does not change. Nil is an empty one.
type Table struct {
	v4, v6 family
}

// family has the networks of one version of IP.
type family struct {
	lengths  []int // of the prefixes, each once
	networks map[netip.Prefix]struct{}
}

// Compile makes a table of a list.
func Compile(l List) (*Table, error) {
	if len(l) > maxEntries {
		return nil, errs.Errorf(errs.Invalid, "list of banned addresses: must have at most %d entries, has %d", maxEntries,
			len(l))
	}
	t := &Table{}
	for i, text := range l {
		p, err := syntax.ParseNetwork(text)
		if err != nil {
			return nil, errs.Errorf(errs.Invalid, "list of banned addresses").Field(fmt.Sprintf("[%d]", i), err.Error())
		}
		f := &t.v4
		if p.Addr().Is6() {
			f = &t.v6
		}
		f.add(p)
	}
	return t, nil
}

func (f *family) add(p netip.Prefix) {
	if f.networks == nil {
		f.networks = map[netip.Prefix]struct{}{}
	}
	known := false
	for _, length := range f.lengths {
		known = known || length == p.Bits()
	}
	if !known {
		f.lengths = append(f.lengths, p.Bits())
	}
	f.networks[p] = struct{}{}
}

// Has reports whether an address, as text, is banned. What is no address is not banned. It looks once for each length
// of the prefixes in the list, so how long the list is does not matter.
func (t *Table) Has(address string) bool {
	if t.Empty() {
		return false
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	f := &t.v4
	if addr.Is6() {
		f = &t.v6
	}
	for _, length := range f.lengths {
		if p, err := addr.Prefix(length); err == nil {
			if _, ok := f.networks[p]; ok {
				return true
			}
		}
	}
	return false
}

// Empty reports whether nobody is banned.
func (t *Table) Empty() bool { return t == nil || len(t.v4.networks)+len(t.v6.networks) == 0 }
