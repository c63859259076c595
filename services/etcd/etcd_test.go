package etcd_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"bijou.dev/services/etcd"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "http://127.0.0.1:2379"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379"}, "http://127.0.0.1:2379"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=http://[::]:4001,http://10.0.0.1:1"}, "http://127.0.0.1:4001"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=http://10.0.0.1:2379", "ETCD_ADVERTISE_CLIENT_URLS=http://etcd:2379"}, "http://10.0.0.1:2379"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=", "ETCD_ADVERTISE_CLIENT_URLS=http://etcd:2379"}, "http://etcd:2379"},
	} {
		if got := etcd.Target(c.env); got != c.want {
			t.Errorf("Target(%q) = %s, want %s", c.env, got, c.want)
		}
	}
}

func TestDefaultsGiveWay(t *testing.T) {
	all := etcd.Defaults()
	if got := etcd.Missing(nil, nil); !slices.Equal(got, all) {
		t.Errorf("an empty environment gets %q", got)
	}
	got := etcd.Missing([]string{"--data-dir=/data", "-log-level", "info"}, []string{"ETCD_QUOTA_BACKEND_BYTES=1"})
	for _, def := range got {
		name, _, _ := strings.Cut(def, "=")
		if slices.Contains([]string{"--data-dir", "--log-level", "--quota-backend-bytes"}, name) {
			t.Errorf("%s was set and is set again", name)
		}
	}
	if len(got) != len(all)-3 {
		t.Errorf("got %q", got)
	}
}

func TestHealthcheck(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		healthy    bool
	}{
		{"serving", `{"health":"true","reason":""}`, 200, true},
		{"no leader", `{"health":"false","reason":"RAFT NO LEADER"}`, 503, false},
		{"says so with 200", `{"health":"false","reason":"ALARM NOSPACE"}`, 200, false},
		{"somebody else", `hello`, 200, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/health" {
					http.NotFound(w, r)
					return
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			var out strings.Builder
			code := etcd.Main([]string{"etcd", "healthcheck"}, []string{"ETCD_LISTEN_CLIENT_URLS=" + server.URL}, &out)
			if (code == 0) != c.healthy || (out.Len() == 0) != c.healthy {
				t.Errorf("exit code %d, said %q", code, out.String())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := etcd.Healthy(ctx, "http://127.0.0.1:1"); err == nil {
		t.Error("nobody there, and healthy")
	}
}
