package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"bijou.dev/cmd/bijou/stack"
)

// held kills instances for as long as the fault lasts.
func held(row, name string, on where, seconds int, must float64, victims ...string) fault {
	return fault{
		row: row, name: name, on: on, seconds: seconds, must: must, victims: victims,
		hurt: func(t testing.TB, p platform) { each(t, p.hold, victims...) },
		heal: func(t testing.TB, p platform) { each(t, p.start, victims...) },
	}
}

// paused stops instances as SIGSTOP does: their connections stay open, and nobody answers.
func paused(row, name string, on where, seconds int, must float64, victims ...string) fault {
	return fault{
		row: row, name: name, on: on, seconds: seconds, must: must, victims: victims,
		hurt: func(t testing.TB, p platform) { each(t, p.(sufferer).pause, victims...) },
		heal: func(t testing.TB, p platform) { each(t, p.(sufferer).resume, victims...) },
	}
}

var catalogs = []string{"catalog-a-1", "catalog-a-2", "catalog-b-1"}

// controlPlane is everything that is not asked on a request's path.
var controlPlane = []string{"etcd-1", "config-1", "config-2", "discovery-1", "discovery-2", "circuits-1", "tracing-1"}

// staticFaults take away what is not on a request's path, and instances of what is.
var staticFaults = []fault{
	held("1", "one of three catalogs killed", processesOf, 6, .999, "catalog-a-1"),
	paused("2", "one of three catalogs paused", processesOf, 8, .995, "catalog-a-1"),
	{
		row: "3", name: "every replicated service restarted, one instance after the other", on: processesOf, must: 1,
		victims: []string{"catalog-a-1", "catalog-a-2", "catalog-b-1", "recommendations-a-1", "recommendations-b-1", "config-1", "config-2", "discovery-1", "discovery-2"},
		hurt: func(t testing.TB, p platform) {
			each(t, p.restart, "catalog-a-1", "recommendations-a-1", "config-1", "discovery-1", "catalog-a-2", "recommendations-b-1", "config-2", "discovery-2", "catalog-b-1")
		},
		heal: func(testing.TB, platform) {},
	},
	{
		row: "5, 35", name: "the control plane and etcd dead; a catalog restarted meanwhile", on: processesOf, seconds: 8, must: 1,
		victims: append([]string{"catalog-a-2"}, controlPlane...),
		hurt: func(t testing.TB, p platform) {
			each(t, p.hold, controlPlane...)
			p.kill(t, "catalog-a-2") // starts from what it kept on disk
		},
		heal: func(t testing.TB, p platform) { each(t, p.start, controlPlane...) },
	},
	{
		row: "6", name: "the registry back empty, etcd dead", on: processesOf, seconds: 8, must: 1,
		victims: []string{"etcd-1", "discovery-1", "discovery-2"},
		hurt: func(t testing.TB, p platform) {
			each(t, p.hold, "etcd-1", "discovery-1", "discovery-2")
			each(t, p.start, "discovery-1", "discovery-2")
		},
		heal: func(t testing.TB, p platform) { p.start(t, "etcd-1") },
	},
	held("10", "one of three stores killed", threeStores, 8, 1, "etcd-1"),
}

// startThreeStores runs the stack with its `ha` overlay.
func startThreeStores(t testing.TB) platform {
	t.Helper()
	file := filepath.Join(t.TempDir(), "compose.yaml")
	both := "include:\n- path: [" + filepath.Join(root, "compose.yaml") + ", " + filepath.Join(root, "compose.ha.yaml") + "]\n"
	if err := os.WriteFile(file, []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	return startProcesses(t, stack.Options{File: file})
}
