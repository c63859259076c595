package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// toHTTPS is the setting gateway.redirectToHTTPS.
type toHTTPS struct {
	// Hosts are names, wildcards such as *.example.org for one or more labels, or * for all hosts. Empty: none.
	Hosts []string `json:"hosts,omitempty"`
	// Port is the port of HTTPS as clients see it. Zero: 443.
	Port int `json:"port,omitempty"`
}

// Validate implements the check of the setting.
func (t toHTTPS) Validate() error {
	if t.Port < 0 || t.Port > 65535 {
		return fmt.Errorf("port: must be 1 to 65535, is %d", t.Port)
	}
	for i, host := range t.Hosts {
		name := strings.TrimPrefix(host, "*.")
		if host != "*" && (!syntax.IsHost(name) || syntax.HostName(name) != name || strings.Contains(name, "*")) {
			return fmt.Errorf("hosts[%d]: must be a name in lower case, *.NAME or *, is %q", i, host)
		}
	}
	return nil
}

// has reports whether requests for a host are redirected.
func (t toHTTPS) has(host string) bool {
	host = syntax.HostName(host)
	return host != "" && slices.ContainsFunc(t.Hosts, func(h string) bool { return syntax.MatchesHost(h, host) })
}

// redirectToHTTPS answers a request that came without TLS with its URL with https, if the setting says so. False: it
// did nothing.
func (x *exchange) redirectToHTTPS() bool {
	t := x.edge.settings.toHTTPS.Get()
	if len(t.Hosts) == 0 {
		return false
	}
	if x.in.SeenScheme == "https" || !t.has(x.in.SeenHost) {
		return false
	}
	host := syntax.WithoutPort(x.in.SeenHost)
	if t.Port != 0 && t.Port != 443 {
		host += ":" + strconv.Itoa(t.Port)
	}
	location := message.Field{Name: "Location", Value: "https://" + host + x.in.Path + x.in.Query}
	x.out.Plain(http.StatusPermanentRedirect, message.Header{location}, nil)
	return true
}
