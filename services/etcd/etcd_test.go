package etcd_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"bijou.dev/services/etcd"
)

func TestTargetOfHealthChecks(t *testing.T) {
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "http://127.0.0.1:2379"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379"}, "http://127.0.0.1:2379"},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=http://[::]:4001,http://10.0.0.1:1"}, "http://127.0.0.1:4001"},
		{
			[]string{"ETCD_LISTEN_CLIENT_URLS=http://10.0.0.1:2379", "ETCD_ADVERTISE_CLIENT_URLS=http://etcd:2379"},
			"http://10.0.0.1:2379",
		},
		{[]string{"ETCD_LISTEN_CLIENT_URLS=", "ETCD_ADVERTISE_CLIENT_URLS=http://etcd:2379"}, "http://etcd:2379"},
	} {
		if got := etcd.Target(c.env); got != c.want {
			t.Errorf("Target(%q) = %s, want %s", c.env, got, c.want)
		}
	}
}

func TestFlagsAndVariablesReplaceDefaults(t *testing.T) {
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

func TestHealthcheckExitCodes(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		healthy    bool
	}{
		{"serving", `{"health":"true","reason":""}`, 200, true},
		{"no leader", `{"health":"false","reason":"RAFT NO LEADER"}`, 503, false},
		{"unhealthy with 200", `{"health":"false","reason":"ALARM NOSPACE"}`, 200, false},
		{"not etcd", `hello`, 200, false},
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
				t.Errorf("exit code %d, output %q; want healthy: %t", code, out.String(), c.healthy)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := etcd.Healthy(ctx, "http://127.0.0.1:1"); err == nil {
		t.Error("Healthy returned no error although no server listens")
	}
}

// On a full disk etcd is not started; when space is freed it is.
func TestWaitsForFreeSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=200m"); err != nil { // its log takes 64 MB for each file
		t.Skip("a small disk has to be mounted: ", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 201<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	socket := "unix://" + filepath.Join(dir, "s")
	cmd.Env = append(os.Environ(), "ETCD_TEST_RUN=1", "ETCD_LOG_LEVEL=info",
		"ETCD_DATA_DIR="+filepath.Join(dir, "data"),
		"ETCD_LISTEN_CLIENT_URLS="+socket, "ETCD_ADVERTISE_CLIENT_URLS="+socket, "ETCD_LISTEN_PEER_URLS="+socket+"p",
		"ETCD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:1", "ETCD_INITIAL_CLUSTER=default=http://127.0.0.1:1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // it was killed
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewScanner(stderr)
	if !lines.Scan() || !strings.Contains(lines.Text(), "0 KiB left") {
		t.Fatalf("the first line of output is %q, %v; want the free space", lines.Text(), lines.Err())
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
		t.Errorf("etcd has created its data folder on a full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		if strings.Contains(lines.Text(), "serving client traffic") {
			return
		}
	}
	t.Errorf("etcd exited before it served: %v", lines.Err())
}

// TestMain runs etcd instead of the tests if ETCD_TEST_RUN is set.
func TestMain(m *testing.M) {
	if os.Getenv("ETCD_TEST_RUN") != "" {
		os.Exit(etcd.Main(os.Args, os.Environ(), os.Stderr))
	}
	os.Exit(m.Run())
}
