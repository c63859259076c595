package proxyproto

import (
	"fmt"
	"net/netip"
	"slices"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/syntax"
)

// maxNetworks is how many networks a listener may have.
const maxNetworks = 100

// Trusted says for each listener which addresses and networks proxies have that begin connections with a header. All
// connections of the listener must come from these and begin with one. Empty: no connection of the listener does.
type Trusted struct {
	HTTP  []string `json:"http,omitempty"`
	HTTPS []string `json:"https,omitempty"`
}

// JSONSchema is the schema by which the config service checks the setting when it is published.
func (Trusted) JSONSchema() string {
	networks := fmt.Sprintf(`{"type": ["array", "null"], "maxItems": %d, "items": {"type": "string", `+
		`"description": "must be an address or a network like \"10.0.0.0/8\"", `+
		`"pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"}}`, maxNetworks)
	return `{"type": "object", "additionalProperties": false, "properties": {"http": ` + networks + `, "https": ` +
		networks + `}}`
}

// Validate returns an error that names the entry that cannot be read.
func (t Trusted) Validate() error {
	_, err := Compile(t)
	return err
}

// Listeners is Trusted, ready for use. It does not change.
type Listeners struct {
	HTTP, HTTPS Networks
}

// Networks are networks of proxies. Empty: the listener has no PROXY protocol.
type Networks []netip.Prefix

// Compile makes Trusted ready for use.
func Compile(t Trusted) (*Listeners, error) {
	l := &Listeners{}
	for _, list := range []struct {
		name string
		from []string
		to   *Networks
	}{{"http", t.HTTP, &l.HTTP}, {"https", t.HTTPS, &l.HTTPS}} {
		if n := len(list.from); n > maxNetworks {
			return nil, errs.Errorf(errs.Invalid, "proxies that are trusted").Field(list.name,
				fmt.Sprintf("must have at most %d networks, has %d", maxNetworks, n))
		}
		for i, text := range list.from {
			p, err := syntax.ParseNetwork(text)
			if err != nil {
				return nil, errs.Errorf(errs.Invalid, "proxies that are trusted").Field(
					fmt.Sprintf("%s[%d]", list.name, i), err.Error())
			}
			*list.to = append(*list.to, p)
		}
	}
	return l, nil
}

// Has reports whether an address, as text, is one of a proxy.
func (n Networks) Has(address string) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(addr) })
}
