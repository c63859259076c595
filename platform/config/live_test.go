package config_test

import (
	"bytes"
	"context"
	"crypto/sha256"
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

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// peer is a config service that sends what a test wants, and keeps what it receives.
type peer struct {
	configv1.UnimplementedConfigServer
	net    *memnet.Network
	server *grpc.Server

	mu       sync.Mutex
	snapshot *configv1.WatchResponse
	refuse   error // what Declare returns
	declared []*configv1.DeclareRequest
	received [][]*configv1.WatchRequest // by stream
	opened   []time.Time                // when each stream was opened
	push     chan *configv1.WatchResponse
	end      chan error // what the stream returns
}

func newPeer(t *testing.T) *peer {
	p := &peer{net: memnet.New(), snapshot: &configv1.WatchResponse{Snapshot: true}}
	p.start(t)
	t.Cleanup(func() { p.server.Stop() })
	return p
}

func (p *peer) start(t *testing.T) {
	t.Helper()
	l, err := p.net.Listen("tcp", "config:7000")
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.push, p.end = make(chan *configv1.WatchResponse), make(chan error)
	p.mu.Unlock()
	p.server = grpc.NewServer()
	configv1.RegisterConfigServer(p.server, p)
	go p.server.Serve(l)
}

func (p *peer) Declare(_ context.Context, req *configv1.DeclareRequest) (*configv1.DeclareResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.declared = append(p.declared, req)
	return &configv1.DeclareResponse{}, p.refuse
}

func (p *peer) Watch(stream configv1.Config_WatchServer) error {
	p.mu.Lock()
	n := len(p.received)
	p.received = append(p.received, nil)
	p.opened = append(p.opened, time.Now())
	snapshot, push, end := p.snapshot, p.push, p.end
	p.mu.Unlock()
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.received[n] = append(p.received[n], m)
			p.mu.Unlock()
		}
	}()
	if err := stream.Send(snapshot); err != nil {
		return err
	}
	for {
		select {
		case m := <-push:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-end:
			return err
		case <-stream.Context().Done():
			return nil
		}
	}
}

// acks returns what the newest stream carried, after everything has settled.
func (p *peer) acks(t *testing.T) []*configv1.WatchRequest {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.received) == 0 {
		t.Fatal("no stream was opened")
	}
	return p.received[len(p.received)-1]
}

func (p *peer) lastAck(t *testing.T) *configv1.WatchRequest {
	t.Helper()
	all := p.acks(t)
	return all[len(all)-1]
}

func (p *peer) declarations() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.declared)
}

func value(name, text string, revision int64) *configv1.Value {
	return &configv1.Value{
		Name: name, Value: text, Revision: revision, Layer: configv1.Layer_LAYER_APP,
		Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: "catalog"},
	}
}

func snapshot(revision int64, values ...*configv1.Value) *configv1.WatchResponse {
	return &configv1.WatchResponse{Revision: revision, Snapshot: true, Values: values}
}

func me() *configv1.Identity {
	return &configv1.Identity{App: "catalog", Instance: "catalog-1", Zone: "a", Version: "v1"}
}

func open(t *testing.T, p *peer, dir string, log *slog.Logger) *config.LiveSet {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///config:7000", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return p.net.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	set, err := config.Open(config.Options{Identity: me(), Conn: conn, Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func run(t *testing.T, set *config.LiveSet) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := set.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestFollowsAndAcknowledges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = snapshot(7, value("limit", "30", 5), value("undeclared", "x", 7))
		set := open(t, p, "", nil)
		limit := config.Int(set, "limit", 20, config.Spec{Min: "1", Max: "50"})
		run(t, set)
		hello, ack := p.acks(t)[0], p.lastAck(t)
		if hello.GetIdentity().GetInstance() != "catalog-1" || hello.GetAppliedRevision() != 0 {
			t.Errorf("the first message is %v", hello)
		}
		if ack.GetAppliedRevision() != 7 || ack.GetIdentity() != nil || limit.Get() != 30 || set.Revision() != 7 {
			t.Errorf("after the snapshot: acknowledged %v, value %d, revision %d", ack, limit.Get(), set.Revision())
		}
		if ok, _ := set.Connected(); !ok || set.Problem() != nil {
			t.Errorf("not connected: %v", set.Problem())
		}

		watched := make(chan int64, 1)
		defer limit.Watch(func(_, after int64) { watched <- after })()
		p.push <- &configv1.WatchResponse{Revision: 8, Values: []*configv1.Value{value("limit", "40", 8)}}
		if got := p.lastAck(t).GetAppliedRevision(); got != 8 || limit.Get() != 40 || <-watched != 40 {
			t.Errorf("after a change: acknowledged %d, value %d", got, limit.Get())
		}
		if e := set.Entries()[0]; e.Layer != "app" || e.Scope != "catalog" || e.Revision != 8 {
			t.Errorf("the entry is %+v", e)
		}
		p.push <- &configv1.WatchResponse{Revision: 9}
		if got := p.lastAck(t).GetAppliedRevision(); got != 9 {
			t.Errorf("a revision that changes nothing here is acknowledged as %d", got)
		}
		p.push <- &configv1.WatchResponse{Revision: 10, Removed: []string{"limit"}}
		if got := p.lastAck(t).GetAppliedRevision(); got != 10 || limit.Get() != 20 {
			t.Errorf("after a removal: acknowledged %d, value %d", got, limit.Get())
		}
	})
}

func TestBadValueIsReportedAndThePreviousKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = snapshot(1, value("limit", "30", 1), value("late", "never", 1))
		set := open(t, p, "", nil)
		limit := config.Int(set, "limit", 20, config.Spec{Max: "50"})
		rules := config.JSON(set, "rules", limits{High: 1}, config.Spec{})
		run(t, set)
		synctest.Wait()
		p.push <- &configv1.WatchResponse{Revision: 2, Values: []*configv1.Value{
			value("limit", "51", 2), value("rules", `{"low":2,"high":1}`, 2),
			value("big", strings.Repeat("x", config.MaxText+1), 2),
		}}
		r := p.lastAck(t).GetRejections()
		if len(r) != 3 || r[0].GetName() != "big" || r[1].GetName() != "limit" || r[1].GetRevision() != 2 ||
			!strings.Contains(r[1].GetProblem(), "must be at most 50") ||
			!strings.Contains(r[2].GetProblem(), "low is above high") {
			t.Errorf("rejections are %v", r)
		}
		if limit.Get() != 30 || rules.Get().High != 1 {
			t.Errorf("in use: %d and %v", limit.Get(), rules.Get())
		}
		if e := set.Entries()[0]; e.Value != "30" || e.Problem == "" {
			t.Errorf("the entry does not show the problem: %+v", e)
		}
		// A document of a newer version of the app may have fields that this one does not know.
		p.push <- &configv1.WatchResponse{Revision: 3, Values: []*configv1.Value{
			value("limit", "31", 3), value("rules", `{"low":2,"high":3,"middle":1}`, 3),
		}}
		if r := p.lastAck(t).GetRejections(); len(r) != 1 || limit.Get() != 31 || rules.Get().High != 3 {
			t.Errorf("after usable values: rejections %v, in use %d and %v", r, limit.Get(), rules.Get())
		}
		late := config.Duration(set, "late", time.Second, config.Spec{})
		if r := p.lastAck(t).GetRejections(); len(r) != 2 || late.Get() != time.Second {
			t.Errorf("a value that was there before its declaration: rejections %v, in use %v", r, late.Get())
		}
	})
}

func TestRetriesWithoutLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = snapshot(5, value("limit", "30", 5), value("removed", "1", 5))
		set := open(t, p, "", nil)
		limit := config.Int(set, "limit", 20, config.Spec{})
		removed := config.Int(set, "removed", 0, config.Spec{})
		run(t, set)
		synctest.Wait()

		p.server.Stop()
		time.Sleep(3 * time.Hour)
		if ok, since := set.Connected(); ok || time.Since(since) < 2*time.Hour || set.Problem() == nil {
			t.Errorf("disconnected: connected %t since %v, problem %v", ok, since, set.Problem())
		}
		if limit.Get() != 30 || removed.Get() != 1 || set.Revision() != 5 {
			t.Errorf("disconnected, the values are %d and %d of revision %d",
				limit.Get(), removed.Get(), set.Revision())
		}
		p.mu.Lock()
		p.snapshot = snapshot(6, value("limit", "40", 6))
		p.mu.Unlock()
		p.start(t)
		// The back-off of gRPC grows to two minutes. The platform's connections have a shorter one.
		time.Sleep(3 * time.Minute)
		if hello := p.acks(t)[0]; hello.GetAppliedRevision() != 5 {
			t.Errorf("resumed with %v, want revision 5", hello)
		}
		if limit.Get() != 40 || removed.Get() != 0 || set.Revision() != 6 {
			t.Errorf("connected again, the values are %d and %d of revision %d",
				limit.Get(), removed.Get(), set.Revision())
		}
	})
}

func TestARemovedValueLosesItsRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = snapshot(1, value("a", "many", 1), value("b", "many", 1))
		set := open(t, p, "", nil)
		config.Int(set, "a", 1, config.Spec{})
		config.Int(set, "b", 1, config.Spec{})
		run(t, set)
		if r := p.lastAck(t).GetRejections(); len(r) != 2 {
			t.Fatalf("rejections are %v, want a and b", r)
		}
		p.push <- &configv1.WatchResponse{Revision: 2, Removed: []string{"a"}}
		if r := p.lastAck(t).GetRejections(); len(r) != 1 || r[0].GetName() != "b" {
			t.Errorf("after a was removed, rejections are %v, want b only", r)
		}
		p.mu.Lock()
		p.snapshot = snapshot(3)
		p.mu.Unlock()
		p.end <- status.Error(codes.Unavailable, "restarting")
		time.Sleep(time.Second)
		if r := p.lastAck(t).GetRejections(); len(r) != 0 {
			t.Errorf("after a snapshot without b, rejections are %v, want none", r)
		}
	})
}

func TestAnAcknowledgementHasAtMost100Rejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		set := open(t, p, "", nil)
		config.IntFamily(set, "a.*", 1, config.Spec{})
		run(t, set)
		synctest.Wait()
		m := &configv1.WatchResponse{Revision: 1}
		for i := range 101 {
			m.Values = append(m.Values, value(fmt.Sprintf("a.%d", i), "many", 1))
		}
		p.push <- m
		if n := len(p.lastAck(t).GetRejections()); n != 100 {
			t.Errorf("the acknowledgement has %d rejections, want 100", n)
		}
	})
}

// Only the first message of a stream is a snapshot. If another one comes, something is wrong with the stream, and the
// set opens a new one.
func TestASecondSnapshotEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = snapshot(1, value("limit", "30", 1))
		set := open(t, p, "", nil)
		limit := config.Int(set, "limit", 20, config.Spec{})
		run(t, set)
		synctest.Wait()
		p.push <- snapshot(2, value("limit", "40", 2))
		synctest.Wait()
		if err := set.Problem(); err == nil || !strings.Contains(err.Error(), "revision 2 came as snapshot true") {
			t.Errorf("the problem is %v", err)
		}
		if limit.Get() != 30 {
			t.Errorf("the value is %d, want the one before", limit.Get())
		}
		time.Sleep(time.Second)
		if ok, _ := set.Connected(); !ok {
			t.Errorf("not connected again: %v", set.Problem())
		}
	})
}

// gaps returns the times between the openings of streams.
func (p *peer) gaps() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []time.Duration
	for i := 1; i < len(p.opened); i++ {
		list = append(list, p.opened[i].Sub(p.opened[i-1]))
	}
	return list
}

func TestReconnectsAreSpreadAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = &configv1.WatchResponse{} // not a snapshot: the set ends the stream at once
		run(t, open(t, p, "", nil))
		time.Sleep(10 * time.Minute)
		gaps := p.gaps()
		if first := gaps[0]; first > 100*time.Millisecond {
			t.Errorf("the first wait is %v, want at most 100ms", first)
		}
		last := gaps[len(gaps)-100:]
		if low, high := slices.Min(last), slices.Max(last); low < 2500*time.Millisecond || high > 5*time.Second {
			t.Errorf("later waits are %v to %v, want 2.5s to 5s", low, high)
		}
		slices.Sort(last)
		if n := len(slices.Compact(last)); n < 90 {
			t.Errorf("100 waits have %d different lengths, want them spread", n)
		}
	})
}

func TestTheFirstReconnectAfterAConnectionIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.snapshot = &configv1.WatchResponse{} // not a snapshot: the set ends the stream at once
		run(t, open(t, p, "", nil))
		time.Sleep(10 * time.Minute) // waits have grown
		p.mu.Lock()
		p.snapshot = snapshot(1)
		p.mu.Unlock()
		time.Sleep(time.Minute)
		before := len(p.gaps())
		p.end <- status.Error(codes.Unavailable, "restarting")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if n := len(p.gaps()) - before; n != 1 {
			t.Errorf("%d streams were opened in 100ms after one ended, want 1", n)
		}
	})
}

func TestRefusedDeclarationsAreNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.refuse = status.Error(codes.InvalidArgument, "app must be a name")
		p.snapshot = snapshot(1)
		var logged lockedBuffer
		set := open(t, p, "", slog.New(slog.NewTextHandler(&logged, nil)))
		config.Int(set, "a", 1, config.Spec{})
		run(t, set)
		time.Sleep(time.Hour)
		if n := p.declarations(); n != 1 {
			t.Errorf("declared %d times, want 1", n)
		}
		if !strings.Contains(logged.String(), "refuses the declarations") {
			t.Errorf("the log does not say so:\n%s", logged.String())
		}
		config.Int(set, "b", 1, config.Spec{})
		time.Sleep(time.Second)
		if n := p.declarations(); n != 2 {
			t.Errorf("declared %d times after another declaration, want 2", n)
		}
	})
}

// A change that comes just before the end of a process is saved.
func TestTheLastChangeIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := newPeer(t)
		p.snapshot = snapshot(1, value("limit", "30", 1))
		first := open(t, p, dir, nil)
		config.Int(first, "limit", 20, config.Spec{})
		stop := run(t, first)
		time.Sleep(time.Minute)
		p.push <- &configv1.WatchResponse{Revision: 2, Values: []*configv1.Value{value("limit", "40", 2)}}
		synctest.Wait()
		p.push <- &configv1.WatchResponse{Revision: 3, Values: []*configv1.Value{value("limit", "50", 3)}}
		synctest.Wait()
		stop()
		second := open(t, p, dir, nil)
		if got := config.Int(second, "limit", 20, config.Spec{}).Get(); got != 50 || second.Revision() != 3 {
			t.Errorf("the next start has %d of revision %d, want 50 of 3", got, second.Revision())
		}
	})
}

func TestDeclaresUntilAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.refuse = status.Error(codes.Unavailable, "the store is away")
		set := open(t, p, "", nil)
		config.Int(set, "b", 1, config.Spec{Doc: "Second."})
		config.BoolFamily(set, "a.*.on", true, config.Spec{})
		run(t, set)
		time.Sleep(time.Minute)
		p.mu.Lock()
		if n := len(p.declared); n < 10 {
			t.Errorf("%d attempts in a minute", n)
		}
		last := p.declared[len(p.declared)-1]
		p.refuse = nil
		p.mu.Unlock()
		if got := last.GetProperties(); last.GetApp() != "catalog" || len(got) != 2 ||
			got[0].GetName() != "a.*.on" || got[1].GetDoc() != "Second." {
			t.Errorf("declared %v", last)
		}

		time.Sleep(time.Minute)
		accepted := p.declarations()
		time.Sleep(time.Hour)
		if n := p.declarations(); n != accepted {
			t.Errorf("declared %d times more after it was accepted", n-accepted)
		}
		for i := range 50 { // one burst, one call
			config.Int(set, fmt.Sprintf("c%d", i), 1, config.Spec{})
		}
		time.Sleep(time.Minute)
		if n := p.declarations(); n != accepted+1 {
			t.Errorf("a burst of declarations led to %d calls", n-accepted)
		}
		// A service whose revision is lower than before has lost data, and one at 0 may have: it gets the declarations
		// again.
		p.push <- &configv1.WatchResponse{Revision: 5}
		synctest.Wait()
		for i, revision := range []int64{2, 0, 0} {
			p.mu.Lock()
			p.snapshot = snapshot(revision)
			p.mu.Unlock()
			p.server.Stop()
			p.start(t)
			time.Sleep(10 * time.Minute)
			if n := p.declarations(); n != accepted+2+i {
				t.Errorf("after break %d there were %d more calls, want 1", i+1, n-accepted-1-i)
			}
		}
	})
}

func TestLastKnownGoodValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "config")
		p := newPeer(t)
		elsewhere := value("zoned", "5", 3)
		elsewhere.Scope = &configv1.Scope{Layer: configv1.Layer_LAYER_VERSION, Selector: "v0"}
		over := value("forced", "true", 3)
		over.Scope = &configv1.Scope{Layer: configv1.Layer_LAYER_OVERRIDE}
		over.Expires = timestamppb.New(time.Now().Add(time.Hour))
		p.snapshot = snapshot(3, value("limit", "30", 3), value("bad", "1", 3), elsewhere, over)
		first := open(t, p, dir, nil)
		config.Int(first, "bad", 0, config.Spec{Max: "10"})
		stop := run(t, first)
		synctest.Wait()
		p.push <- &configv1.WatchResponse{Revision: 4, Values: []*configv1.Value{value("bad", "11", 4)}}
		synctest.Wait()
		stop()
		p.server.Stop()

		second := open(t, p, dir, nil)
		limit := config.Int(second, "limit", 20, config.Spec{})
		bad := config.Int(second, "bad", 0, config.Spec{Max: "10"})
		zoned := config.Int(second, "zoned", 0, config.Spec{})
		forced := config.Bool(second, "forced", false, config.Spec{})
		if limit.Get() != 30 || bad.Get() != 1 || !forced.Get() || second.Revision() != 4 {
			t.Errorf("at boot: %d, %d, %t of revision %d; want the values that were in use",
				limit.Get(), bad.Get(), forced.Get(), second.Revision())
		}
		if zoned.Get() != 0 {
			t.Error("a value for another version was taken over")
		}
		time.Sleep(2 * time.Hour)
		third := open(t, p, dir, nil)
		if config.Bool(third, "forced", false, config.Spec{}).Get() {
			t.Error("an override whose time is over was taken over")
		}
	})
}

func TestDamagedFileIsReportedAndIgnored(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "catalog.settings")
	body := []byte(`{"revision":"3","snapshot":true,` +
		`"values":[{"name":"limit","value":"30","scope":{"layer":"LAYER_APP"}}]}`)
	good := append(fmt.Appendf(nil, "bijou settings 1 sha256 %x\n", sha256.Sum256(body)), body...)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-20] ^= 1
	for name, test := range map[string]struct {
		data []byte
		want int64
	}{
		"whole": {good, 30}, "one bit": {flipped, 20}, "half": {good[:len(good)/2], 20},
		"empty": {nil, 20}, "without head": {body, 20},
	} {
		if err := os.WriteFile(file, test.data, 0o600); err != nil {
			t.Fatal(err)
		}
		var logged bytes.Buffer
		set := open(t, &peer{net: memnet.New()}, dir, slog.New(slog.NewTextHandler(&logged, nil)))
		if got := config.Int(set, "limit", 20, config.Spec{}).Get(); got != test.want {
			t.Errorf("%s: value %d, want %d", name, got, test.want)
		}
		if reported := strings.Contains(logged.String(), "ignoring last known good"); reported != (test.want == 20) {
			t.Errorf("%s: log is %s", name, logged.String())
		}
	}
}

func TestUnwritableFolderIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p := newPeer(t)
		p.snapshot = snapshot(3, value("limit", "30", 3))
		var logged lockedBuffer
		set := open(t, p, filepath.Join(blocked, "dir"), slog.New(slog.NewTextHandler(&logged, nil)))
		limit := config.Int(set, "limit", 20, config.Spec{})
		run(t, set)
		for i := range int64(5) {
			time.Sleep(time.Minute)
			p.push <- &configv1.WatchResponse{
				Revision: 4 + i,
				Values:   []*configv1.Value{value("limit", fmt.Sprint(31+i), 4+i)},
			}
		}
		time.Sleep(time.Minute)
		if limit.Get() != 35 || strings.Count(logged.String(), "cannot save last known good") != 1 {
			t.Errorf("value %d, log:\n%s", limit.Get(), logged.String())
		}
	})
}

// lockedBuffer is written by a set and read by the test at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestOpenNamesTheField(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///unused:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for field, o := range map[string]config.Options{
		"Identity.App":      {Conn: conn, Identity: &configv1.Identity{Instance: "1"}},
		"Identity.Instance": {Conn: conn, Identity: &configv1.Identity{App: "a"}},
		"Conn":              {Identity: me()},
	} {
		_, err := config.Open(o)
		if errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), "opening settings: "+field+" must ") {
			t.Errorf("want an error that names %s, got %v", field, err)
		}
	}
}

// FuzzFile checks that no content of the file, with a right or a wrong checksum, prevents the start of a process.
func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"revision":"3","snapshot":true,"values":[{"name":"limit","value":"30","scope":{"layer":"LAYER_APP"},`+
		`"expires":"2020-01-01T00:00:00Z"}]}`), true)
	f.Add([]byte(`{"values":[{},{"name":"limit"},{"name":"rules","value":"{"}]}`), true)
	f.Add([]byte("bijou settings 1 sha256 \n"), false)
	dir := f.TempDir()
	conn, err := grpc.NewClient("passthrough:///unused:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, sign bool) {
		if sign {
			body = append(fmt.Appendf(nil, "bijou settings 1 sha256 %x\n", sha256.Sum256(body)), body...)
		}
		if err := os.WriteFile(filepath.Join(dir, "catalog.settings"), body, 0o600); err != nil {
			t.Fatal(err)
		}
		set, err := config.Open(config.Options{Identity: me(), Conn: conn, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		limit := config.Int(set, "limit", 20, config.Spec{Min: "1", Max: "50"})
		config.JSON(set, "rules", limits{High: 1}, config.Spec{})
		if v := limit.Get(); v < 1 || v > 50 {
			t.Errorf("a value out of bounds was taken from the file: %d", v)
		}
		set.Entries()
	})
}

// An override ends at its time also while the config service is away: a circuit that is forced open for five minutes
// must not stay open for the whole outage.
func TestOverridesEndInTimeWhileDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		forced := value("forced", "true", 3)
		forced.Scope = &configv1.Scope{Layer: configv1.Layer_LAYER_OVERRIDE}
		forced.Expires = timestamppb.New(time.Now().Add(time.Hour))
		p.snapshot = snapshot(3, value("limit", "30", 3), forced)
		set := open(t, p, "", nil)
		limit := config.Int(set, "limit", 20, config.Spec{})
		flag := config.Bool(set, "forced", false, config.Spec{})
		var calls atomic.Int64
		flag.Watch(func(_, _ bool) { calls.Add(1) })
		stop := run(t, set)
		defer stop()
		time.Sleep(2 * time.Hour)
		if !flag.Get() {
			t.Error("the set ended the override while it was connected: that is left to the service")
		}
		p.server.Stop()
		time.Sleep(time.Minute)
		if flag.Get() || limit.Get() != 30 || calls.Load() != 2 {
			t.Errorf("disconnected, after the end of the override: %t (%d calls of the watcher), limit %d; "+
				"want false, 2 calls, 30", flag.Get(), calls.Load(), limit.Get())
		}
	})
}
