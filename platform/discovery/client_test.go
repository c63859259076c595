package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
)

// step is something that happens to a client, and what it then knows.
type step struct {
	say   *discoveryv1.WatchResponse // a message; nil for none
	cut   bool                       // the stream ends, and say opens the next one
	wait  time.Duration
	warm  bool // while waiting, the registry says that it is warming up
	knows string
}

func TestRulesForMissingInstances(t *testing.T) {
	for name, steps := range map[string][]step{
		"rule 1: no registry answers": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{cut: true, wait: 10 * time.Second, knows: "a1 a2"},
			{wait: time.Hour, knows: "a1 a2"},
		},
		"rule 2: not UP and not named": {
			{say: snapshot("a1 a2:DRAINING a3:DOWN"), knows: "a1 a2:DRAINING a3:DOWN"},
			{cut: true, say: snapshot("a1"), knows: "a1"},
		},
		"rule 3: a minority is missing": {
			{say: snapshot("a1 a2 a3 b1 b2"), knows: "a1 a2 a3 b1 b2"},
			{cut: true, say: snapshot("a1 a3 b1"), knows: "a1 a3 b1"},
		},
		"rule 3: exactly half is missing": {
			{say: snapshot("a1 a2 a3 a4 b1 b2"), knows: "a1 a2 a3 a4 b1 b2"},
			{cut: true, say: snapshot("a1 a4 b2"), knows: "a1 a4 b2"},
		},
		"rule 3: only UP instances count": {
			{say: snapshot("a1 a2 a3:DOWN a4:DOWN a5:DOWN"), knows: "a1 a2 a3:DOWN a4:DOWN a5:DOWN"},
			{cut: true, say: snapshot("a1"), knows: "a1"},
		},
		"rule 3: new instances do not make up for missing ones": {
			{say: snapshot("a1 a2 a3"), knows: "a1 a2 a3"},
			{cut: true, say: snapshot("a1 a4 a5 a6"), knows: "a1 a2? a3? a4 a5 a6"},
		},
		"rule 3: more than half is missing": {
			{say: snapshot("a1 a2 a3 b1"), knows: "a1 a2 a3 b1"},
			{cut: true, say: snapshot("a1 b1"), knows: "a1 a2? a3? b1"},
			{wait: 28 * time.Second, knows: "a1 a2? a3? b1"},
			{wait: 4 * time.Second, knows: "a1 b1"},
		},
		"rule 3: an empty snapshot": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{cut: true, say: snapshot(""), knows: "a1? a2?"},
			{say: changed("a2"), knows: "a1? a2"},
			{wait: 32 * time.Second, knows: "a2"},
		},
		"rule 3: a second snapshot in the stream": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{say: snapshot("b1"), knows: "a1? a2? b1"},
		},
		"rule 3: warming up": {
			{say: snapshot("a1 a2 a3 a4"), knows: "a1 a2 a3 a4"},
			{cut: true, say: warming("a1 a2 a3"), knows: "a1 a2 a3 a4?"},
			{wait: time.Minute, warm: true, knows: "a1 a2 a3 a4?"},
			{say: changed(""), knows: "a1 a2 a3 a4?"},
			{wait: 28 * time.Second, knows: "a1 a2 a3 a4?"},
			{wait: 4 * time.Second, knows: "a1 a2 a3"},
		},
		"rule 5: one is removed": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{say: removed("a1"), knows: "a2"},
			{say: removed("a9"), knows: "a2"},
		},
		"rule 5: a service goes at once": {
			{say: snapshot("a1 a2 b1"), knows: "a1 a2 b1"},
			{say: removed("a1 a2"), knows: "a1? a2? b1"},
			{wait: 32 * time.Second, knows: "b1"},
		},
		"rule 5: a service goes one by one within a lease": {
			{say: snapshot("a1 a2 a3"), knows: "a1 a2 a3"},
			{say: removed("a1"), wait: 4 * time.Second, knows: "a2 a3"},
			{say: removed("a2"), wait: 4 * time.Second, knows: "a3"},
			{say: removed("a3"), knows: "a1? a2? a3?"},
			{say: changed("a3"), knows: "a1? a2? a3"},
		},
		"rule 5: a service goes slowly": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{say: removed("a1"), wait: 12 * time.Second, knows: "a2"},
			{say: removed("a2"), knows: "a2?"},
		},
		"rule 5: the last UP instance is removed, others are not UP": {
			{say: snapshot("a1 a2:DRAINING"), knows: "a1 a2:DRAINING"},
			{say: removed("a1"), knows: "a1? a2:DRAINING"},
		},
		"rule 5: a suspect is not an instance that is UP": {
			{say: snapshot("a1 a2 a3"), knows: "a1 a2 a3"},
			{cut: true, say: snapshot("a3"), knows: "a1? a2? a3"},
			{say: removed("a3"), knows: "a1? a2? a3?"},
		},
		"rule 5: while an instance is UP nothing comes back": {
			{say: snapshot("a1 a2 a3"), knows: "a1 a2 a3"},
			{say: removed("a1 a2"), knows: "a3"},
			{say: changed("a3:DOWN"), knows: "a3:DOWN"},
		},
		"rule 5: a service leaves in order": {
			{say: snapshot("a1 a2"), knows: "a1 a2"},
			{say: changed("a1:DRAINING a2:DRAINING"), knows: "a1:DRAINING a2:DRAINING"},
			{say: removed("a1 a2"), knows: ""},
		},
		"rule 6: the time starts again with each snapshot": {
			{say: snapshot("a1 a2 a3"), knows: "a1 a2 a3"},
			{cut: true, say: snapshot("a1"), wait: 20 * time.Second, knows: "a1 a2? a3?"},
			{cut: true, say: snapshot("a1"), wait: 20 * time.Second, knows: "a1 a2? a3?"},
			{wait: 14 * time.Second, knows: "a1"},
		},
		"rule 6: time stands still without a registry": {
			{say: snapshot("a1"), knows: "a1"},
			{cut: true, say: snapshot(""), knows: "a1?"},
			{cut: true, wait: time.Hour, knows: "a1?"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, memnet.New(), "one")
				c, _ := run(t, discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext})
				settle()
				for i, st := range steps {
					play(s, st)
					if got := view(c); got != st.knows {
						t.Errorf("step %d: knows %q, want %q", i, got, st.knows)
					}
				}
			})
		})
	}
}

// play does a step. Time passes in small pieces, and the script speaks now and then as a registry must.
func play(s *script, st step) {
	if st.cut {
		s.say <- nil
		if st.say == nil {
			s.net.Cut("one")
		}
		settle()
	}
	if st.say != nil {
		s.say <- st.say
		settle()
	}
	for left := st.wait; left > 0; left -= 2 * time.Second {
		after(2 * time.Second)
		select {
		case s.say <- &discoveryv1.WatchResponse{Version: 4, WarmingUp: st.warm}:
			synctest.Wait()
		default:
		}
	}
}

func TestStatsCountSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		c, _ := run(t, discovery.Options{
			Seeds: []string{s.addr}, DialContext: s.net.DialContext, Hold: 5 * time.Second,
		})
		settle()
		s.say <- snapshot("a1 a2")
		s.say <- snapshot("")
		settle()
		if st := c.Stats(); st.Suspects != 2 || st.Kept != 2 || st.Dropped != 0 ||
			st.Instances != 2 || st.Seed != s.addr ||
			c.Current() != nil {
			t.Errorf("with suspects: %+v", st)
		}
		after(7 * time.Second)
		if st := c.Stats(); st.Suspects != 0 || st.Dropped != 2 || st.Instances != 0 || st.Snapshots != 2 {
			t.Errorf("without suspects: %+v", st)
		}
		s.stop()
		settle()
		if err := c.Current(); c.Stats().Seed != "" || errs.KindOf(err) != errs.Unavailable ||
			!strings.Contains(err.Error(), s.addr) {
			t.Errorf("without a registry: follows %q, and the instances are current: %v; want why %s does not answer",
				c.Stats().Seed, err, s.addr)
		}
		if err := c.Synced(); err != nil {
			t.Errorf("Synced after the registry is lost: %v, want nil", err)
		}
	})
}

// A stream counts when its registry has answered. Later messages and registries that do not answer do not count.
func TestStatsCountStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		c, _ := run(t, discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext})
		settle()
		if st := c.Stats(); st.Streams != 0 {
			t.Errorf("before the registry has answered %d streams are counted, want 0", st.Streams)
		}
		s.say <- snapshot("a1")
		s.say <- changed("a2")
		settle()
		if st := c.Stats(); st.Streams != 1 || st.Snapshots != 1 || st.Deltas != 1 {
			t.Errorf("after a snapshot and a change: %+v, want 1 stream, 1 snapshot and 1 delta", st)
		}
		s.say <- nil // ends the stream
		settle()
		s.say <- snapshot("a1 a2")
		settle()
		if st := c.Stats(); st.Streams != 2 || st.Snapshots != 2 || st.Deltas != 1 {
			t.Errorf("after a second stream: %+v, want 2 streams, 2 snapshots and 1 delta", st)
		}
	})
}

func TestAcknowledgedWhenWatchersHaveReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		c, _ := run(t, discovery.Options{
			Seeds: []string{s.addr}, DialContext: s.net.DialContext, Name: "gateway/1",
			Services: []string{"a"},
		})
		defer c.Watch("a", func([]discovery.Instance) { time.Sleep(time.Second) })()
		settle()
		s.say <- snapshot("a1")
		after(900 * time.Millisecond)
		s.set(func(s *script) {
			if len(s.acked) != 0 {
				t.Errorf("acknowledged %v before the watcher has returned", s.acked)
			}
			if s.first.GetWatcher() != "gateway/1" || !slices.Equal(s.first.GetServices(), []string{"a"}) {
				t.Errorf("the first message was %v", s.first)
			}
		})
		after(200 * time.Millisecond)
		s.set(func(s *script) {
			if !slices.Equal(s.acked, []int64{1}) {
				t.Errorf("acknowledged %v, want 1", s.acked)
			}
		})
	})
}

func TestWatch(t *testing.T) {
	c := discovery.NewStatic(map[string][]discovery.Instance{"a": {{ID: "1"}}, "b": {{ID: "1"}}})
	var a, all []int
	stop := c.Watch("a", func(list []discovery.Instance) { a = append(a, len(list)) })
	defer c.Watch("", func(list []discovery.Instance) { all = append(all, len(list)) })()
	c.Put("a", []discovery.Instance{{ID: "1"}, {ID: "2"}})
	c.Put("b", nil)
	c.Put("a", []discovery.Instance{{ID: "2"}, {ID: "1"}}) // the same in another order
	stop()
	c.Put("a", nil)
	if !slices.Equal(a, []int{1, 2}) || !slices.Equal(all, []int{2, 3, 2, 0}) {
		t.Errorf("the watchers have seen %v and %v instances, want [1 2] and [2 3 2 0]", a, all)
	}
	if err := c.Synced(); err != nil {
		t.Error("a static client is always synced, got", err)
	}
	c.Instances("a") // of nothing
	c.Put("a", []discovery.Instance{{ID: "1"}})
	c.Instances("a")[0].ID = "changed"
	if got := c.Instances("a")[0]; got.ID != "1" || got.Service != "a" || got.Status != discovery.Up {
		t.Errorf("got %+v: callers must not share the slice", got)
	}
}

func TestSeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		one, two := newScript(t, network, "one"), newScript(t, network, "two")
		one.open(snapshot("a1"))
		two.open(snapshot("a1 a2"))
		c, _ := run(t, discovery.Options{
			Seeds:       []string{"dead:7000", "one:7000", "two:7000"},
			DialContext: network.DialContext,
		})
		after(5 * time.Second)
		seed := c.Stats().Seed
		if err := c.Synced(); err != nil || (seed != "one:7000" && seed != "two:7000") {
			t.Fatalf("follows %q, %v", seed, err)
		}
		// It goes silent; no connection breaks.
		host, _, _ := strings.Cut(seed, ":")
		network.Cut(host)
		after(25 * time.Second)
		if now := c.Stats().Seed; now == "" || now == seed {
			t.Errorf("after %s became silent: follows %q, want the other registry", seed, now)
		}
	})
}

func TestClientRetriesForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		var dials atomic.Int64
		c, _ := run(t, discovery.Options{
			Seeds: []string{"one:7000"},
			DialContext: func(ctx context.Context, n, addr string) (net.Conn, error) {
				dials.Add(1)
				return network.DialContext(ctx, n, addr)
			},
		})
		after(time.Hour)
		if n := dials.Load(); n < 300 || n > 1000 {
			t.Errorf("%d tries in an hour, want about one in 7.5 s", n)
		}
		if err := c.Synced(); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "one:7000") {
			t.Errorf("synced is %v, want the seed and why", err)
		}
		s := newScript(t, network, "one")
		s.open(snapshot("a1"))
		after(11 * time.Second)
		if err := c.Synced(); err != nil || view(c) != "a1" {
			t.Errorf("after an hour: %v, knows %q", err, view(c))
		}
	})
}

func TestLastKnownOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newScript(t, memnet.New(), "one")
		s.open(snapshot("a1 a2 a3 b1 c1"))
		o := discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext, Dir: dir}
		_, stop := run(t, o)
		after(3 * time.Second)
		s.say <- changed("b1:DOWN")
		settle()
		stop()
		s.stop()

		c, stop := run(t, o)
		if got := view(c); got != "a1 a2 a3 b1:DOWN c1" {
			t.Fatalf("before a registry answers it knows %q", got)
		}
		in := c.Instances("a")[0]
		if in.Endpoints["grpc"] != "a1:7000" {
			t.Errorf("from disk: %+v", in)
		}
		after(time.Hour)
		if got := view(c); got != "a1 a2 a3 b1:DOWN c1" {
			t.Errorf("after an hour without a registry it knows %q", got)
		}
		// Rule 4: the file may be old. a has a successor, c has none.
		s = newScript(t, s.net, "one")
		s.open(snapshot("a4"))
		after(11 * time.Second)
		if got := view(c); got != "a4 c1?" {
			t.Errorf("after the first snapshot it knows %q, want a4 c1?", got)
		}
		stop()
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	})
}

// Rule 4 does not apply while the registry is warming up: the instances from disk may be those that it lacks.
func TestInstancesFromDiskAreKeptWhileTheRegistryWarmsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		s.open(snapshot("a1 a2 b1"))
		o := discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext, Dir: t.TempDir()}
		_, stop := run(t, o)
		after(3 * time.Second)
		stop()

		s.open(warming("a4"))
		c, _ := run(t, o)
		settle()
		if got := view(c); got != "a1? a2? a4 b1?" {
			t.Errorf("after a snapshot of a registry that warms up: %q, want the instances from disk as suspects", got)
		}
		s.say <- snapshot("a4")
		settle()
		if got := view(c); got != "a4 b1?" {
			t.Errorf("after a complete snapshot: %q, want only a4, and b1, whose service has no other instance", got)
		}
	})
}

func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "instances.json")
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		s.open(snapshot("a1 a2"))
		_, stop := run(t, discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext, Dir: dir})
		after(3 * time.Second)
		stop()
	})
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte, bad uint64) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := discovery.New(discovery.Options{Seeds: []string{"one:7000"}, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if n := c.Stats(); n.BadFiles != bad || (bad == 0) != (n.Instances == 2) {
			t.Errorf("bad files %d, instances %d", n.BadFiles, n.Instances)
		}
	}
	check(good, 0)
	for i := range good {
		check(good[:i], 1)
		flipped := slices.Clone(good)
		flipped[i] ^= 1
		check(flipped, 1)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("bijou-instances-1 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n{}"))
	f.Add([]byte("bijou-instances-1 \n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "instances.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := discovery.New(discovery.Options{Seeds: []string{"one:7000"}, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if s := c.Stats(); s.BadFiles > 0 && s.Instances > 0 {
			t.Errorf("a bad file gave %d instances", s.Instances)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for field, o := range map[string]discovery.Options{
		"Seeds must name":    {},
		"Seeds[1] must be":   {Seeds: []string{"one:7000", "registry"}},
		"Hold must":          {Seeds: []string{"one:7000"}, Hold: -1},
		"Seeds[0] must be":   {Seeds: []string{"one:"}, Hold: -1},
		"Hold must not be n": {Seeds: []string{"one:"}, Hold: -1},
	} {
		if _, err := discovery.New(o); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestParseStatus(t *testing.T) {
	for s := discovery.Starting; s <= discovery.Down; s++ {
		if got, err := discovery.ParseStatus(strings.ToLower(s.String())); got != s || err != nil {
			t.Errorf("%v: got %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "UNKNOWN", "up "} {
		if _, err := discovery.ParseStatus(bad); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
	if s := discovery.Status(77).String(); s != "UNKNOWN" {
		t.Errorf("an unknown status is %q", s)
	}
}

func TestInstancesAreReadableAsJSON(t *testing.T) {
	text, err := json.Marshal(discovery.Instance{Service: "catalog", ID: "catalog-1", Status: discovery.OutOfService})
	if want := `{"service":"catalog","id":"catalog-1","status":"OUT_OF_SERVICE"}`; err != nil || string(text) != want {
		t.Errorf("an instance is %s (error %v), want %s", text, err, want)
	}
	var back discovery.Instance
	if err := json.Unmarshal(text, &back); err != nil || back.Status != discovery.OutOfService {
		t.Errorf("read back: %v, %v", back.Status, err)
	}
	if err := json.Unmarshal([]byte(`{"Status":"ASLEEP"}`), &back); !errors.Is(err, errs.Invalid) {
		t.Errorf("a status that does not exist: %v", err)
	}
}

func TestUnwritableFolderIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newScript(t, memnet.New(), "one")
		s.open(snapshot("a1"))
		var logged lines
		c, stop := run(t, discovery.Options{
			Seeds: []string{s.addr}, DialContext: s.net.DialContext, Dir: filepath.Join(blocked, "dir"),
			Log: slog.New(slog.NewTextHandler(&logged, nil)),
		})
		for i := range 5 {
			after(10 * time.Second)
			s.say <- changed(fmt.Sprintf("b%d", i))
		}
		after(10 * time.Second)
		stop()
		if n := logged.count("saving the last known instances"); n != 1 || c.Stats().Unsaved < 5 {
			t.Errorf("%d writes failed, %d lines say so, want 1", c.Stats().Unsaved, n)
		}
	})
}

// lines is written by the client and read by the test.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}
