// Package etcd runs etcd from its Go module, with settings for the platform's control plane, and checks whether one is
// healthy. Every flag and every ETCD_* variable of etcd works and takes precedence over what is set here. The only
// addition to etcd is that it waits for free space on a full disk.
package etcd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

// Defaults are the flags that this etcd adds when neither the command line nor the environment sets them.
func Defaults() []string {
	return []string{
		"--data-dir=etcd-data",
		// Clients on this machine only; compose.yaml sets 0.0.0.0 and the name of the service.
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		// Ten minutes of history: longer than most disconnections of clients. After a longer one a client lists again.
		"--auto-compaction-mode=periodic",
		"--auto-compaction-retention=10m",
		// The whole control plane is a few MiB. A runaway writer is stopped well before the disk is full.
		"--quota-backend-bytes=536870912",
		"--watch-progress-notify-interval=5s",
		"--log-level=warn",
	}
}

// healthTimeout bounds a health check: below the interval of any supervisor.
const healthTimeout = 2 * time.Second

// Main runs etcd until a signal stops it. As "etcd healthcheck" it asks a running etcd whether it serves. args is the
// command line with the program's name first, env the environment. It returns the exit code; etcd itself exits the
// process.
func Main(args, env []string, stderr io.Writer) int {
	if len(args) > 1 && args[1] == "healthcheck" {
		ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
		defer cancel()
		if err := Healthy(ctx, Target(env)); err != nil {
			fmt.Fprintln(stderr, "etcd:", err)
			return 1
		}
		return 0
	}
	args = append(args, Missing(args[1:], env)...)
	waitForFreeSpace(dataDir(args[1:], env), stderr)
	etcdmain.Main(args)
	return 0
}

// Missing returns the defaults that neither flags nor env set.
func Missing(flags, env []string) []string {
	var add []string
	for _, def := range Defaults() {
		name, _, _ := strings.Cut(strings.TrimPrefix(def, "--"), "=")
		variable := "ETCD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if _, ok := lookup(env, variable); !ok && !hasFlag(flags, name) {
			add = append(add, def)
		}
	}
	return add
}

func lookup(env []string, name string) (string, bool) {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok && value != "" {
			return value, true
		}
	}
	return "", false
}

// hasFlag reports whether the flag is on the command line: -name, --name or --name=value.
func hasFlag(flags []string, name string) bool {
	for _, flag := range flags {
		got, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		if strings.HasPrefix(flag, "-") && got == name {
			return true
		}
	}
	return false
}
