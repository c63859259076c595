package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/rpc"
	"bijou.dev/services/config/configtest"
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
	catalogKilled(),
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
			p.kill(t, "catalog-a-2")
			eventually(t, 20*time.Second, "an instance that starts from what it kept on disk", func(ctx context.Context) error {
				n, err := known(ctx, p, "catalog-a-2", "catalog")
				if err == nil && n != len(catalogs) {
					err = fmt.Errorf("it knows %d catalogs", n)
				}
				return err
			})
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
		heal:   func(t testing.TB, p platform) { p.start(t, "etcd-1") },
		beside: seenByWeb,
	},
	{
		row: "6", name: "the store back empty, its data lost", on: processesOf, seconds: 4, must: 1, victims: []string{"config-1", "config-2"},
		hurt: func(t testing.TB, p platform) {
			p.hold(t, "etcd-1")
			files, err := filepath.Glob(filepath.Join(p.(fragile).storeDisk(), "*"))
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
			each(t, p.restart, "config-1", "config-2") // as the runbook says: they would go on with what they remember
		},
		beside: seenByWeb,
	},
	preservation(),
	{
		row: "9", name: "the network between control plane and store stands still", on: processesOf, seconds: 15, must: 1,
		hurt: func(_ testing.TB, p platform) { p.(fragile).store.set(0, true) },
		heal: func(_ testing.TB, p platform) { p.(fragile).store.set(0, false) },
	},
	{
		row: "17", name: "the network between control plane and store 100 ms slower each way, and reset every second", on: processesOf, seconds: 8, must: 1,
		hurt: func(t testing.TB, p platform) {
			store := p.(fragile).store
			store.set(100*time.Millisecond, false)
			every, n := time.NewTicker(time.Second), 0
			defer every.Stop()
			for ; n < 5; n++ {
				<-every.C
				store.reset()
			}
		},
		heal: func(_ testing.TB, p platform) { p.(fragile).store.set(0, false) },
	},
	slowStore(),
	fullDisk(),
	leaderKilled(),
	majorityLost(),
	replicasKilled(),
}

// catalogKilled takes an instance away for longer than its lease.
func catalogKilled() fault {
	note := ""
	f := held("1, 8", "one of three catalogs killed", processesOf, 2, .999, "catalog-a-1")
	f.hurt = func(t testing.TB, p platform) {
		p.hold(t, "catalog-a-1")
		killed := time.Now()
		eventually(t, 30*time.Second, "web to hear of it", func(ctx context.Context) error {
			if n, err := known(ctx, p, "web-1", "catalog"); err != nil || n != len(catalogs)-1 {
				return fmt.Errorf("it knows %d, %v", n, err)
			}
			return nil
		})
		note = fmt.Sprintf("callers went elsewhere at once; web was told %v later, when its lease had ended (aimed at 3 s: a lease is 10 s, for a broken connection is not a departure)",
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
	both := "include:\n- path: [" + filepath.Join(root, "compose.yaml") + ", " + filepath.Join(root, "compose.ha.yaml") + "]\n"
	if err := os.WriteFile(file, []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	return startProcesses(t, stack.Options{File: file})
}

var stores = []string{"etcd-1", "etcd-2-1", "etcd-3-1"}

// leader returns the store that leads the others.
func leader(t testing.TB, p platform) (found string) {
	t.Helper()
	eventually(t, 20*time.Second, "a leader of the stores", func(ctx context.Context) error {
		for _, s := range stores {
			if a, err := get(ctx, "http://"+p.addr(s, 2379)+"/metrics"); err == nil && strings.Contains(a.body, "\netcd_server_is_leader 1\n") {
				found = s
				return nil
			}
		}
		return fmt.Errorf("none of %v says that it leads", stores)
	})
	return found
}

// publishers publishes and reads settings through both replicas of config while something breaks, and has a checker decide
// whether what writers and readers were told can have come from one configuration.
func publishers(judge func(configtest.Summary) (note string, missed []string)) func(testing.TB, platform) func() (string, []string) {
	return func(t testing.TB, p platform) func() (string, []string) {
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
		r := configtest.Record(t, *faultSeed, clients...)
		return func() (string, []string) {
			sum := r.Check()
			note, missed := judge(sum)
			return fmt.Sprintf("%d operations on settings, of which %d publishes acknowledged, are linearizable and in the history; writes paused for %v, %d reads failed%s",
				sum.Operations, sum.Acknowledged, sum.WriteGap.Round(10*time.Millisecond), sum.ReadErrors, note), missed
		}
	}
}

// linearizable asks no more of publishers.
func linearizable(configtest.Summary) (string, []string) { return "", nil }

func leaderKilled() fault {
	var victim string
	return fault{
		row: "10", name: "the leader of three stores killed", on: threeStores, seconds: 8, must: 1,
		hurt: func(t testing.TB, p platform) { victim = leader(t, p); p.hold(t, victim) },
		heal: func(t testing.TB, p platform) { p.start(t, victim) },
		beside: publishers(func(sum configtest.Summary) (note string, missed []string) {
			if sum.ReadErrors > 0 {
				missed = append(missed, fmt.Sprintf("%d reads of settings failed", sum.ReadErrors))
			}
			switch {
			case sum.WriteGap > 8*time.Second: // the leader is away no longer
				missed = append(missed, "nothing was written until it was back")
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
		row: "11", name: "two of three stores dead", on: threeStores, seconds: 12, must: 1,
		hurt: func(t testing.TB, p platform) {
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
				missed = append(missed, fmt.Sprintf("writers were refused after %v, one after %v", sum.Refusal, sum.Slowest))
			}
			return fmt.Sprintf("; a refusal took %v (median), at most %v: aimed at 1 s, but what is under way when the majority is lost waits for the store as long as any call, 3 s",
				sum.Refusal.Round(100*time.Microsecond), sum.Slowest.Round(10*time.Millisecond)), missed
		}),
	}
}

func replicasKilled() fault {
	return fault{
		row: "10, 12", name: "replicas of config and stores killed in turn while settings are published", on: threeStores, must: 1,
		victims: []string{"config-1", "config-2"},
		hurt: func(t testing.TB, p platform) {
			for i, s := range stores {
				p.kill(t, []string{"config-1", "config-2"}[i%2])
				<-time.After(time.Second)
				p.kill(t, s)
				<-time.After(3 * time.Second)
			}
		},
		heal:   func(testing.TB, platform) {},
		beside: publishers(linearizable),
	}
}

// doubts returns how many instances a registry knows, and whether it doubts losses.
func doubts(ctx context.Context, p platform, registry string) (n, suspects int, preserving bool, err error) {
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

// preservation cuts 40 % of all instances from the registry for longer than their lease, and takes a few out of service in
// order when they are back: neither is to empty the registry, and the doubt is to end by itself (Eureka #1267).
func preservation() fault {
	silent := []string{"web-1", "catalog-a-1", "catalog-b-1", "recommendations-b-1", "search-1", "profiles-1", "viewing-1", "ratings-1"}
	leaving := []string{"hello-1", "hello-next-1", "catalog-a-2", "recommendations-b-1"}
	note := ""
	return fault{
		row: "7", name: "40 % of all instances cut from the registry", on: oneProcess, seconds: 0, must: 1,
		hurt: func(t testing.TB, p platform) {
			s := p.(*inProcess)
			whole := 0
			eventually(t, 20*time.Second, "a registry that doubts nothing", func(ctx context.Context) error {
				n, suspects, on, err := doubts(ctx, p, "discovery-1")
				if whole = n; err != nil || on || suspects > 0 || n < len(cast) {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			})
			each(t, func(t testing.TB, i string) {
				s.wireOf(t, i).lose(p.addr("discovery-1", 7000), p.addr("discovery-2", 7000))
			}, silent...)
			least := whole
			eventually(t, 30*time.Second, "self-preservation", func(ctx context.Context) error {
				n, suspects, on, err := doubts(ctx, p, "discovery-1")
				if least = min(least, n); err != nil || !on || suspects < len(silent) {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			})
			if least < whole {
				t.Errorf("the registry lost instances: %d of %d are left", least, whole)
			}
			note = fmt.Sprintf("%d of %d instances doubted, none evicted", len(silent), whole)
		},
		heal: func(t testing.TB, p platform) {
			s := p.(*inProcess)
			each(t, func(t testing.TB, i string) { s.wireOf(t, i).lose() }, silent...)
			begun := time.Now()
			off := func(ctx context.Context) error {
				n, suspects, on, err := doubts(ctx, p, "discovery-1")
				if err != nil || on || suspects > 0 {
					return fmt.Errorf("%d instances, %d suspects, self-preservation %v, %v", n, suspects, on, err)
				}
				return nil
			}
			eventually(t, 30*time.Second, "the end of self-preservation", off)
			note += fmt.Sprintf("; it ended %v after the network was back", time.Since(begun).Round(100*time.Millisecond))
			for _, i := range leaving {
				s.take(t, i).stop(t)
			}
			<-time.After(12 * time.Second) // longer than a lease
			if err := off(t.Context()); err != nil {
				t.Errorf("after %d instances had left in order: %v", len(leaving), err)
			}
			note += fmt.Sprintf(" and did not begin again when %d left in order", len(leaving))
			each(t, p.start, leaving...)
		},
		victims: leaving,
		beside: func(testing.TB, platform) func() (string, []string) {
			return func() (string, []string) { return note, nil }
		},
	}
}

// seenByWeb watches how many catalogs web knows: never less than there were.
func seenByWeb(t testing.TB, p platform) func() (string, []string) {
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
				if n, err := known(ctx, p, "web-1", "catalog"); err == nil && (least < 0 || n < least) {
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

// known returns how many instances of a service a process knows.
func known(ctx context.Context, p platform, instance, service string) (int, error) {
	var all []struct{ ID string }
	err := getJSON(ctx, "http://"+p.addr(instance, 9090)+"/instances?service="+service, &all)
	return len(all), err
}

func slowStore() fault {
	undo := func() {}
	return fault{
		row: "14", name: "each sync of the store to disk 500 ms slower", on: processesOf, seconds: 8, must: 1,
		hurt:   func(t testing.TB, p platform) { undo = p.(fragile).slowDisk(t, "etcd-1", 500*time.Millisecond) },
		heal:   func(testing.TB, platform) { undo() },
		beside: publishers(linearizable),
	}
}

func fullDisk() fault {
	var filler string
	return fault{
		row: "15", name: "the store's disk full", on: processesOf, seconds: 10, must: 1,
		hurt: func(t testing.TB, p platform) {
			f := p.(fragile)
			if f.small != nil {
				t.Skip("a small disk has to be mounted: ", f.small)
			}
			filler = filepath.Join(f.storeDisk(), "filler")
			file, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			for piece := make([]byte, 1<<20); err == nil && len(piece) > 0; piece = piece[:len(piece)/2] {
				for err == nil {
					_, err = file.Write(piece)
				}
				if errors.Is(err, syscall.ENOSPC) {
					err = nil
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			p.kill(t, "etcd-1") // it has taken the space of its log in advance, and would not notice for long
		},
		heal: func(t testing.TB, p platform) {
			if err := os.Remove(filler); err != nil {
				t.Error(err)
			}
			p.start(t, "etcd-1")
		},
		beside: publishers(linearizable),
	}
}
