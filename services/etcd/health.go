package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Target returns the URL that a health check on this machine asks: the first address that etcd listens on, else the one
// that it advertises, else its default. For an address that listens on every interface it is the loopback address.
func Target(env []string) string {
	for _, name := range []string{"ETCD_LISTEN_CLIENT_URLS", "ETCD_ADVERTISE_CLIENT_URLS"} {
		if urls, ok := lookup(env, name); ok {
			first, _, _ := strings.Cut(urls, ",")
			return local(strings.TrimSpace(first))
		}
	}
	return "http://127.0.0.1:2379"
}

func local(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return target
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return u.String()
}

// Healthy asks the etcd at target, a client URL, whether it serves: it has a leader, no alarm, and can read.
func Healthy(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target+"/health", nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", target, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", target, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&answer); err != nil {
		return fmt.Errorf("asking %s: status %s, and no answer of etcd: %w", target, resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK || answer.Health != "true" {
		return fmt.Errorf("asking %s: not healthy: %s", target, answer.Reason)
	}
	return nil
}
