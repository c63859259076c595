package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/rpc"
	"bijou.dev/services/config/configtest"
)

// instancesKilled kills instances and keeps them down until heal.
func instancesKilled(row, name string, on where, seconds int, must float64, victims ...string) fault {
	return fault{
		row: row, name: name, on: on, seconds: seconds, must: must, victims: victims,
		inject: func(t testing.TB, p platform) { each(t, p.hold, victims...) },
		heal:   func(t testing.TB, p platform) { each(t, p.start, victims...) },
	}
}

// instancesPaused pauses instances with SIGSTOP: their connections stay open and they do not answer.
func instancesPaused(row, name string, on where, seconds int, must float64, victims ...string) fault {
	return fault{
		row: row, name: name, on: on, seconds: seconds, must: must, victims: victims,
		inject: func(t testing.TB, p platform) { each(t, p.(pauser).pause, victims...) },
		heal:   func(t testing.TB, p platform) { each(t, p.(pauser).resume, victims...) },
	}
}

var catalogs = []string{"catalog-a-1", "catalog-a-2", "catalog-b-1"}

// controlPlane are the instances that are not on the path of a request.
var controlPlane = []string{"etcd-1", "config-1", "config-2", "discovery-1", "discovery-2", "circuits-1", "tracing-1"}

// staticFaults stop instances that are not on the path of a request, and some replicas of those that are.
var staticFaults = []fault{
	withEjectionTimes("catalog", "catalog-a-1",
		instancesPaused("2", "one of three catalogs paused", processesOf, 8, .995, "catalog-a-1")),
	catalogKilled(),
	{
		row: "3", name: "every replicated service restarted, one instance after the other", on: processesOf, must: 1,
		victims: []string{
			"catalog-a-1", "catalog-a-2", "catalog-b-1", "recommendations-a-1", "recommendations-b-1",
			"config-1", "config-2", "discovery-1", "discovery-2",
		},
		inject: func(t testing.TB, p platform) {
			each(t, p.restart, "catalog-a-1", "recommendations-a-1", "config-1", "discovery-1", "catalog-a-2",
				"recommendations-b-1", "config-2", "discovery-2", "catalog-b-1")
		},
		heal: func(testing.TB, platform) {},
	},
	{
		row: "5, 35", name: "the control plane and etcd down; a catalog restarted meanwhile", on: processesOf,
		short:   true,
		seconds: 8, must: 1,
		victims: append([]string{"catalog-a-2"}, controlPlane...),
		inject: func(t testing.TB, p platform) {
			each(t, p.hold, controlPlane...)
			p.kill(t, "catalog-a-2")
			eventually(t, 20*time.Second, "catalog-a-2 to start from its snapshots on disk",
				func(ctx context.Context) error {
					n, err := listedInstances(ctx, p, "catalog-a-2", "catalog")
					if err == nil && n != len(catalogs) {
						err = fmt.Errorf("its list has %d catalogs, want %d", n, len(catalogs))
					}
					return err
				})
		},
		heal: func(t testing.TB, p platform) { each(t, p.start, controlPlane...) },
	},
	{
		row: "6", name: "the registry restarted empty, etcd down", on: processesOf, short: true, seconds: 5, must: 1,
		victims: []string{"etcd-1", "discovery-1", "discovery-2"},
		inject: func(t testing.TB, p platform) {
			each(t, p.hold, "etcd-1", "discovery-1", "discovery-2")
			each(t, p.start, "discovery-1", "discovery-2")
		},
		heal:   func(t testing.TB, p platform) { p.start(t, "etcd-1") },
		beside: webListsAllCatalogs,
	},
	{
		row: "6", name: "the store restarted empty, its data lost", on: processesOf, seconds: 4, must: 1,
		victims: []string{"config-1", "config-2"},
		inject: func(t testing.TB, p platform) {
			p.hold(t, "etcd-1")
			files, err := filepath.Glob(filepath.Join(p.(proxied).volume("etcd"), "*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("the store has no files: %v", err)
			}
			for _, f := range files {
				if err := os.RemoveAll(f); err != nil {
					t.Fatal(err)
				}
			}
		},
		heal: func(t testing.TB, p platform) {
			p.start(t, "etcd-1")
			// as in the runbook: without a restart they keep using their copy in memory
			each(t, p.restart, "config-1", "config-2")
		},
		beside: webListsAllCatalogs,
	},
	registryCutOff(),
	{
		row: "9", name: "the network between control plane and store drops everything", on: processesOf, seconds: 15,
		must:   1,
		inject: func(_ testing.TB, p platform) { p.(proxied).store.set(0, true) },
		heal:   func(_ testing.TB, p platform) { p.(proxied).store.set(0, false) },
	},
	{
		row: "17", name: "the network between control plane and store 100 ms slower each way, and reset every second",
		on: processesOf, seconds: 8, must: 1,
		inject: func(t testing.TB, p platform) {
			store := p.(proxied).store
			store.set(100*time.Millisecond, false)
			every, n := time.NewTicker(time.Second), 0
			defer every.Stop()
			for ; n < 5; n++ {
				<-every.C
				store.reset()
			}
		},
		heal: func(_ testing.TB, p platform) { p.(proxied).store.set(0, false) },
	},
	slowStore(),
	fullDisk(),
	failedSync("etcd-1", 1, publishers(onlyLinearizable)),
	failedSync("tracing-1", 1, sendTraces),
	failedSync("profiles-1", .99, createProfiles),
	fullTraces(),
	killedTraces(),
	leaderKilled(),
	majorityLost(),
	replicasKilled(),
}

// catalogKilled kills an instance for longer than its lease.
func catalogKilled() fault {
	note := ""
	f := instancesKilled("1, 8", "one of three catalogs killed", processesOf, 2, .999, "catalog-a-2")
	f.inject = func(t testing.TB, p platform) {
		p.hold(t, "catalog-a-2")
		killed := time.Now()
		eventually(t, 30*time.Second, "web to remove catalog-a-2 from its list", func(ctx context.Context) error {
			if n, err := listedInstances(ctx, p, "web-1", "catalog"); err != nil || n != len(catalogs)-1 {
				return fmt.Errorf("its list has %d catalogs, want %d; error %v", n, len(catalogs)-1, err)
			}
			return nil
		})
		note = fmt.Sprintf("callers used the other instances at once; web removed it %v later, when its lease had "+
			"ended (aimed at 3 s: a lease is 10 s, because a broken connection does not end it)",
			time.Since(killed).Round(100*time.Millisecond))
	}
	f.beside = func(testing.TB, platform) func() (string, []string) {
		return func() (string, []string) { return note, nil }
	}
	return f
}

// startThreeStores runs the stack with its `ha` overlay.
func startThreeStores(t testing.TB) platform {
	t.Helper()
	file := filepath.Join(t.TempDir(), "compose.yaml")
	both := "include:\n- path: [" + filepath.Join(root, "compose.yaml") + ", " +
		filepath.Join(root, "compose.ha.yaml") + "]\n"
	if err := os.WriteFile(file, []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	return startProcesses(t, stack.Options{File: file})
}

var stores = []string{"etcd-1", "etcd-2-1", "etcd-3-1"}

// leader returns the member of etcd that is the leader.
func leader(t testing.TB, p platform) (found string) {
	t.Helper()
	eventually(t, 20*time.Second, "a leader of etcd", func(ctx context.Context) error {
		for _, s := range stores {
			if a, err := get(ctx, "http://"+p.addr(s, 2379)+"/metrics"); err == nil &&
				strings.Contains(a.body, "\netcd_server_is_leader 1\n") {
				found = s
				return nil
			}
		}
		return fmt.Errorf("none of %v is the leader by its metrics", stores)
	})
	return found
}

// publishers publishes and reads settings through both replicas of config during a fault. Then a checker decides
// whether the responses are linearizable: whether one single configuration could have given them.
func publishers(judge func(configtest.Summary) (note string, missed []string)) func(testing.TB,
	platform) func() (string, []string) {
	return func(t testing.TB, p platform) func() (string, []string) { return judged(recordSettings(t, p), judge) }
}

func recordSettings(t testing.TB, p platform) *configtest.Recorder {
	t.Helper()
	var clients []configv1.ConfigClient
	for _, instance := range []string{"config-1", "config-2"} {
		conn, err := rpc.NewClient(rpc.ClientOptions{Service: "e2e"}).Dial("passthrough:///" + p.addr(instance, 7000))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients = append(clients, configv1.NewConfigClient(conn))
	}
	return configtest.Record(t, *faultSeed, clients...)
}

func judged(r *configtest.Recorder, judge func(configtest.Summary) (note string, missed []string)) func() (string,
	[]string) {
	return func() (string, []string) {
		sum := r.Check()
		note, missed := judge(sum)
		return fmt.Sprintf("%d operations on settings, %d of them acknowledged publishes, are linearizable and in "+
			"the history; writes paused for %v, %d reads failed%s",
			sum.Operations, sum.Acknowledged, sum.WriteGap.Round(10*time.Millisecond), sum.ReadErrors, note), missed
	}
}

// onlyLinearizable is for publishers without further requirements.
func onlyLinearizable(configtest.Summary) (string, []string) { return "", nil }

func leaderKilled() fault {
	var victim string
	return fault{
		row: "10", name: "the leader of three stores killed", on: threeStores, seconds: 8, must: 1,
		inject: func(t testing.TB, p platform) { victim = leader(t, p); p.hold(t, victim) },
		heal:   func(t testing.TB, p platform) { p.start(t, victim) },
		beside: publishers(func(sum configtest.Summary) (note string, missed []string) {
			if sum.ReadErrors > 0 {
				missed = append(missed, fmt.Sprintf("%d reads of settings failed", sum.ReadErrors))
			}
			switch {
			case sum.WriteGap > 8*time.Second: // the leader is down for 8 s
				missed = append(missed, "no write succeeded until the old leader was up again")
			case sum.WriteGap > 3*time.Second:
				note = "; aimed at 3 s"
			}
			return note, missed
		}),
	}
}

func majorityLost() fault {
	var victims []string
	return fault{
		row: "11", name: "two of three stores down", on: threeStores, seconds: 12, must: 1,
		inject: func(t testing.TB, p platform) {
			first := leader(t, p)
			victims = []string{first, stores[0]}
			if first == stores[0] {
				victims[1] = stores[1]
			}
			each(t, p.hold, victims...)
		},
		heal: func(t testing.TB, p platform) { each(t, p.start, victims...) },
		beside: publishers(func(sum configtest.Summary) (note string, missed []string) {
			if sum.ReadErrors > 0 {
				missed = append(missed, fmt.Sprintf("%d reads of settings failed", sum.ReadErrors))
			}
			if sum.Slowest > 6*time.Second || sum.Refusal > time.Second {
				missed = append(missed,
					fmt.Sprintf("writes were refused after %v (median), the slowest after %v; want at most 1 s and 6 s",
						sum.Refusal, sum.Slowest))
			}
			return fmt.Sprintf("; a refusal took %v (median), at most %v: aimed at 1 s, but a call in flight when "+
				"the majority is lost waits for etcd until its timeout of 3 s",
				sum.Refusal.Round(100*time.Microsecond), sum.Slowest.Round(10*time.Millisecond)), missed
		}),
	}
}

func replicasKilled() fault {
	return fault{
		row: "10, 12", name: "replicas of config and stores killed in turn while settings are published",
		on:      threeStores,
		must:    1,
		victims: []string{"config-1", "config-2"},
		inject: func(t testing.TB, p platform) {
			for i, s := range stores {
				p.kill(t, []string{"config-1", "config-2"}[i%2])
				pace.Sleep(t.Context(), time.Second)
				p.kill(t, s)
				pace.Sleep(t.Context(), 3*time.Second)
			}
		},
		heal:   func(testing.TB, platform) {},
		beside: publishers(onlyLinearizable),
	}
}

// registrySuspects returns how many instances a registry has, how many are suspect, and whether self-preservation is
// on.
func registrySuspects(ctx context.Context, p platform, registry string) (n, suspects int, preserving bool, err error) {
	var list struct {
		Instances []struct{ Suspect bool }
	}
	if err := getJSON(ctx, "http://"+p.addr(registry, 8761)+"/v1/instances", &list); err != nil {
		return 0, 0, false, err
	}
	for _, i := range list.Instances {
		if i.Suspect {
			suspects++
		}
	}
	var status struct {
		SelfPreservation struct{ Active bool }
	}
	err = getJSON(ctx, "http://"+p.addr(registry, 8761)+"/v1/status", &status)
	return len(list.Instances), suspects, status.SelfPreservation.Active, err
}

// registryCutOff disconnects 40 % of all instances from the registry for longer than their lease, connects them again,
// and then stops a few. Neither may remove other instances from the registry, and self-preservation must end (Eureka
// #1267).
func registryCutOff() fault {
	silent := []string{
		"web-1", "catalog-a-1", "catalog-b-1", "recommendations-b-1", "search-1", "profiles-1",
		"viewing-1", "ratings-1",
	}
	leaving := []string{"hello-1", "hello-next-1", "catalog-a-2", "recommendations-b-1"}
	note := ""
	return fault{
		row: "7", name: "40 % of all instances cut from the registry", on: oneProcess, seconds: 0, must: 1,
		inject: func(t testing.TB, p platform) {
			s := p.(*inProcess)
			whole := 0
			eventually(t, 20*time.Second, "a registry without suspects", func(ctx context.Context) error {
				n, suspects, on, err := registrySuspects(ctx, p, "discovery-1")
				if whole = n; err != nil || on || suspects > 0 || n < len(stackMembers) {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			})
			each(t, func(t testing.TB, i string) {
				s.wireOf(t, i).lose(p.addr("discovery-1", 7000), p.addr("discovery-2", 7000))
			}, silent...)
			least := whole
			eventually(t, 30*time.Second, "self-preservation to begin", func(ctx context.Context) error {
				n, suspects, on, err := registrySuspects(ctx, p, "discovery-1")
				if least = min(least, n); err != nil || !on || suspects < len(silent) {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			})
			if least < whole {
				t.Errorf("the registry removed instances: %d of %d are left", least, whole)
			}
			note = fmt.Sprintf("%d of %d instances suspect, none evicted", len(silent), whole)
		},
		heal: func(t testing.TB, p platform) {
			s := p.(*inProcess)
			each(t, func(t testing.TB, i string) { s.wireOf(t, i).lose() }, silent...)
			begun := time.Now()
			off := func(ctx context.Context) error {
				n, suspects, on, err := registrySuspects(ctx, p, "discovery-1")
				if err != nil || on || suspects > 0 {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			}
			eventually(t, 30*time.Second, "self-preservation to end", off)
			note += fmt.Sprintf("; self-preservation ended %v after the network was repaired",
				time.Since(begun).Round(100*time.Millisecond))
			for _, i := range leaving {
				s.remove(t, i).stop(t)
			}
			pace.Sleep(t.Context(), 12*time.Second) // longer than a lease
			if err := off(t.Context()); err != nil {
				t.Errorf("after %d instances had been stopped: %v", len(leaving), err)
			}
			note += fmt.Sprintf(" and did not begin again when %d were stopped", len(leaving))
			each(t, p.start, leaving...)
		},
		victims: leaving,
		beside: func(testing.TB, platform) func() (string, []string) {
			return func() (string, []string) { return note, nil }
		},
	}
}

// webListsAllCatalogs checks that web has all catalogs in its list all the time.
func webListsAllCatalogs(t testing.TB, p platform) func() (string, []string) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int)
	t.Cleanup(stop)
	go func() {
		least := -1
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if n, err := listedInstances(ctx, p, "web-1", "catalog"); err == nil && (least < 0 || n < least) {
					least = n
				}
			case <-ctx.Done():
				done <- least
				return
			}
		}
	}()
	return func() (string, []string) {
		stop()
		least := <-done
		note := fmt.Sprintf("web knew at least %d of %d catalogs at any time", least, len(catalogs))
		if least < len(catalogs) {
			return "", []string{note}
		}
		return note, nil
	}
}

// listedInstances returns how many instances of a service are in the list of a process.
func listedInstances(ctx context.Context, p platform, instance, service string) (int, error) {
	var all []struct{ ID string }
	err := getJSON(ctx, "http://"+p.addr(instance, 9090)+"/instances?service="+service, &all)
	return len(all), err
}

func slowStore() fault {
	undo := func() {}
	return fault{
		row: "14", name: "each sync of the store to disk 500 ms slower", on: processesOf, seconds: 8, must: 1,
		inject: func(t testing.TB, p platform) {
			_, undo = p.(proxied).injectSync(t, "etcd-1",
				fmt.Sprintf("delay_enter=%d", (500*time.Millisecond).Microseconds()))
		},
		heal:   func(testing.TB, platform) { undo() },
		beside: publishers(onlyLinearizable),
	}
}

// fullDisk keeps the disk of etcd full. Meanwhile settings are published, also by the command line: the value that is
// in use already, so that a success changes nothing.
func fullDisk() fault {
	same := []string{"config", "set", "web.home.row", "12", "--app", "web", "--reason", "on a full disk"}
	var writers *configtest.Recorder
	undo := func() {}
	note, restarts := "", 0
	return fault{
		row: "15", name: "the store's disk full, and kept full", on: processesOf, seconds: 10, must: 1,
		inject: func(t testing.TB, p platform) {
			f := p.(proxied)
			restarts = f.instance(t, "etcd-1").Restarts
			undo = f.fill(t, "etcd")
			refused := false
			eventually(t, 20*time.Second, "a publish to be refused", func(context.Context) error {
				begun := time.Now()
				code, out := bijou(t, p, same...)
				took := time.Since(begun)
				if code == 0 {
					return fmt.Errorf("published: %s", out)
				}
				refused = true
				note = fmt.Sprintf("; a publish by the command line ended after %v with exit code %d: %s",
					took.Round(10*time.Millisecond), code, strings.TrimSpace(out))
				return nil
			})
			if code, out := bijou(t, p, "config", "get", "web.home.row", "--app", "web"); !refused || code != 0 ||
				out != "12\n" {
				t.Errorf("reading a setting: exit code %d: %s", code, out)
			}
		},
		heal: func(t testing.TB, p platform) {
			undo()
			before, space := writers.Summary().Acknowledged, time.Now()
			eventually(t, 30*time.Second, "a publish to succeed", func(context.Context) error {
				if writers.Summary().Acknowledged == before {
					return errors.New("no publish was acknowledged yet")
				}
				return nil
			})
			note += fmt.Sprintf("; the first one succeeded %v after there was space",
				time.Since(space).Round(10*time.Millisecond))
			ended := p.(proxied).instance(t, "etcd-1").Restarts - restarts
			note += fmt.Sprintf("; etcd exits when it cannot write: it was restarted %d times, and waited for space",
				ended)
		},
		beside: func(t testing.TB, p platform) func() (string, []string) {
			must(t, p, same...)
			writers = recordSettings(t, p)
			end := judged(writers, func(sum configtest.Summary) (string, []string) {
				if sum.ReadErrors > 0 {
					return note, []string{fmt.Sprintf("%d reads of settings failed", sum.ReadErrors)}
				}
				return fmt.Sprintf("%s; a refusal took %v (median), at most %v", note,
					sum.Refusal.Round(100*time.Microsecond), sum.Slowest.Round(10*time.Millisecond)), nil
			})
			return func() (string, []string) {
				note, missed := end()
				unset(t, p, "web.home.row", "web")
				return note, missed
			}
		},
	}
}

// failedSync makes every fsync of an instance fail. The instance must exit: after a failed fsync the kernel may drop
// the data and report success for the next fsync, so a retry could lose acknowledged data.
func failedSync(instance string, share float64, beside func(testing.TB, platform) func() (string, []string)) fault {
	note := ""
	return fault{
		row: "16", name: "syncs of " + instance +
			" to disk fail", on: processesOf, seconds: 4, must: share, victims: []string{instance},
		inject: func(t testing.TB, p platform) {
			f := p.(proxied)
			before := f.instance(t, instance).Restarts
			seen, undo := f.injectSync(t, instance, "error=EIO")
			eventually(t, 30*time.Second, instance+" to exit", func(context.Context) error {
				for _, i := range f.Instances() {
					if i.Name == instance && i.Restarts == before && i.Phase != "restarting" {
						return fmt.Errorf("it is %s", i.Phase)
					}
				}
				return nil
			})
			undo()
			lived, n := failures(t, seen)
			note = fmt.Sprintf("it ended %v after the first of %d failures", lived.Round(10*time.Millisecond), n)
			if lived > time.Second {
				note += " (aimed at 1 s)"
			}
		},
		heal: func(testing.TB, platform) {},
		beside: func(t testing.TB, p platform) func() (string, []string) {
			end := beside(t, p)
			return func() (string, []string) {
				more, missed := end()
				return note + "; " + more, missed
			}
		},
	}
}

// failures reads the output of strace: how many calls failed, and how long after the first the process exited.
func failures(t testing.TB, seen string) (lived time.Duration, n int) {
	t.Helper()
	b, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	var first, last float64
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at, _ := strconv.ParseFloat(f[1], 64)
		if strings.Contains(line, "(INJECTED)") {
			if n++; n == 1 {
				first = at
			}
		}
		if f[2] == "+++" { // a thread exited
			last = at
		}
	}
	if n == 0 || last < first {
		t.Errorf("strace shows no injected failure, or no exit:\n%s", b)
	}
	return time.Duration((last - first) * float64(time.Second)), n
}

// createProfiles creates profiles through the edge, one after the other. At the end each acknowledged one must exist.
func createProfiles(t testing.TB, p platform) func() (string, []string) {
	household := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	return checkAcknowledged(t, "profiles", func(ctx context.Context, n int) (string, error) {
		id := fmt.Sprintf("%s-%d", household, n)
		a, err := post(ctx, edge(p)+"/api/profiles", fmt.Sprintf(`{"id": %q, "name": "%d", "household": %q}`, id, n,
			household))
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("%d %.200s", a.status, a.body)
		}
		return id, err
	}, func(ctx context.Context, ids []string) (there int, err error) {
		var all struct{ Profiles []struct{ ID string } }
		if err := getJSON(ctx, edge(p)+"/api/profiles?household="+household, &all); err != nil {
			return 0, err
		}
		for _, one := range all.Profiles {
			if slices.Contains(ids, one.ID) {
				there++
			}
		}
		return there, nil
	})
}

// sendTraces sends traces to the trace store, one after the other. At the end each acknowledged one must be found.
func sendTraces(t testing.TB, p platform) func() (string, []string) {
	const spans = 3
	zipkin := "http://" + p.addr("tracing-1", 9411) + "/api/v2/"
	return checkAcknowledged(t, "traces", func(ctx context.Context, _ int) (string, error) {
		id := fmt.Sprintf("%016x", rand.Uint64())
		var all []string
		for i := range spans {
			all = append(all, fmt.Sprintf(`{"traceId": %q, "id": "%016x", "name": "span %d", "timestamp": %d,
				"duration": 1000, "localEndpoint": {"serviceName": "e2e"}}`,
				id, i+1, i, time.Now().UnixMicro()))
		}
		a, err := post(ctx, zipkin+"spans", "["+strings.Join(all, ",")+"]")
		if err == nil && a.status != http.StatusAccepted {
			err = fmt.Errorf("%d %.200s", a.status, a.body)
		}
		return id, err
	}, func(ctx context.Context, ids []string) (there int, err error) {
		for some := range slices.Chunk(ids, 50) {
			var traces [][]struct{ ID string }
			if err := getJSON(ctx, zipkin+"traceMany?traceIds="+strings.Join(some, ","), &traces); err != nil {
				return 0, err
			}
			for _, trace := range traces {
				if len(trace) == spans {
					there++
				}
			}
		}
		return there, nil
	})
}

// checkAcknowledged calls write again and again. At the end, count must find each write that was acknowledged.
func checkAcknowledged(t testing.TB, what string, write func(ctx context.Context, n int) (id string, err error),
	count func(ctx context.Context, ids []string) (int, error),
) func() (string, []string) {
	ctx, stop := context.WithCancel(t.Context())
	var ids []string
	refusals := map[string]int{}
	var writing sync.WaitGroup
	t.Cleanup(func() { stop(); writing.Wait() })
	writing.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			one, cancel := context.WithTimeout(context.Background(), within)
			id, err := write(one, n)
			cancel()
			if err != nil {
				refusals[err.Error()]++
				continue
			}
			ids = append(ids, id)
		}
	})
	return func() (string, []string) {
		stop()
		writing.Wait()
		refused := 0
		for why, n := range refusals {
			refused += n
			t.Logf("%s: %d x %s", what, n, why)
		}
		there, err := count(t.Context(), ids)
		note := fmt.Sprintf("of %d %s that were acknowledged %d are there, %d were refused", len(ids), what, there,
			refused)
		if err != nil || there < len(ids) || len(ids) == 0 {
			return "", []string{fmt.Sprintf("%s, %v", note, err)}
		}
		return note, nil
	}
}

// fullTraces keeps the disk of the trace store full.
func fullTraces() fault {
	undo := func() {}
	took := time.Duration(0)
	full := func(p platform, want float64) func(context.Context) error {
		return func(ctx context.Context) error {
			if got := metrics(ctx, p, "tracing-1")["bijou_tracing_store_full"]; got != want {
				return fmt.Errorf("bijou_tracing_store_full is %v, want %v", got, want)
			}
			return nil
		}
	}
	return withSpanCount(true, fault{
		row: "15, 34", name: "the trace store's disk full, and kept full", on: processesOf, seconds: 15, must: 1,
		inject: func(t testing.TB, p platform) {
			undo = p.(proxied).fill(t, "tracing")
			eventually(t, 20*time.Second, "a publish to be refused", full(p, 1))
		},
		heal: func(t testing.TB, p platform) {
			undo()
			space := time.Now()
			eventually(t, 20*time.Second, "the trace store to accept spans", full(p, 0))
			took = time.Since(space)
		},
		beside: func(t testing.TB, p platform) func() (string, []string) {
			end := sendTraces(t, p)
			return func() (string, []string) {
				note, missed := end()
				return fmt.Sprintf("it accepted spans again %v after there was space; %s",
					took.Round(10*time.Millisecond), note), missed
			}
		},
	})
}

// killedTraces kills the trace store six times at random moments, and once corrupts the end of its log.
func killedTraces() fault {
	return withSpanCount(false, fault{
		row: "12, 13, 34", name: "the trace store killed again and again, once with a torn log", on: processesOf,
		must:    1,
		victims: []string{"tracing-1"},
		inject: func(t testing.TB, p platform) {
			for n := range 6 {
				p.hold(t, "tracing-1")
				if n == 3 {
					corruptLog(t, p.(proxied).volume("tracing"))
				}
				p.start(t, "tracing-1")
				pace.Sleep(t.Context(), time.Second)
			}
		},
		heal:   func(testing.TB, platform) {},
		beside: sendTraces,
	})
}

// corruptLog appends the beginning of a record to the newest log of the trace store, as a torn write does.
func corruptLog(t testing.TB, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("the folder of the trace store has no log: %v", err)
	}
	slices.Sort(logs)
	f, err := os.OpenFile(logs[len(logs)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("\x12\x34\x56\x78\xff\x00\x05torn")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// metrics returns the metrics of an instance, added up over their labels. Nil: it does not answer.
func metrics(ctx context.Context, p platform, instance string) map[string]float64 {
	all := map[string]float64{}
	a, err := getBy(ctx, noKeepAliveClient, "http://"+p.addr(instance, 9090)+"/metrics")
	if err != nil || a.status != http.StatusOK {
		return nil
	}
	for line := range strings.Lines(a.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64); err == nil {
			base, _, _ := strings.Cut(name, "{")
			all[base] += n
		}
	}
	return all
}

// withSpanCount runs a row under a load of its own. Then, for every instance, the spans that it made must be those that
// the trace store acknowledged and those that it dropped and counted. A sender retries for 10 s; loses: the fault lasts
// longer, so some must be dropped.
func withSpanCount(loses bool, f fault) fault {
	return fault{row: f.row, name: f.name, on: f.on, run: func(t *testing.T, p platform, seed uint64) figures {
		url := waitForHome(t, p)
		o := startOffer(t, seed, p.rate(), url, edge(p)+"/browse", edge(p)+"/")
		at := shortTiming
		x := o.runFault(t, p, f, at)
		o.runFor(t, x.healed+at.window-time.Since(o.begun))
		all := o.end()
		result := x.judge(t, all, at)
		made, exported, dropped := 0., 0., 0.
		eventually(t, 30*time.Second, "every span to be exported or counted as dropped",
			func(ctx context.Context) error {
				made, exported, dropped = 0, 0, 0
				for _, m := range stackMembers {
					n := metrics(ctx, p, m.instance())
					one, good := n["bijou_trace_spans_total"], n["bijou_trace_spans_exported_total"]
					lost := n["bijou_trace_spans_dropped_total"]
					if n == nil || one != good+lost {
						return fmt.Errorf("of %.0f spans of %s %.0f were exported and %.0f dropped", one, m.instance(),
							good, lost)
					}
					made, exported, dropped = made+one, exported+good, dropped+lost
				}
				return nil
			})
		result.note += fmt.Sprintf("; of %.0f spans of all instances since their start %.0f were acknowledged and "+
			"%.0f dropped and counted", made, exported, dropped)
		if loses && dropped == 0 {
			result.missed = append(result.missed, "no span was dropped, although the fault lasted longer than retries")
		}
		return result
	}}
}
