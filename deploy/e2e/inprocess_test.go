package e2e

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/platform/kv/kvetcd/etcdtest"
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/catalog"
	"bijou.dev/services/cinema/playback"
	"bijou.dev/services/cinema/profiles"
	"bijou.dev/services/cinema/ratings"
	"bijou.dev/services/cinema/recommendations"
	"bijou.dev/services/cinema/search"
	"bijou.dev/services/cinema/viewing"
	"bijou.dev/services/cinema/web"
	"bijou.dev/services/circuits"
	"bijou.dev/services/config"
	"bijou.dev/services/console"
	"bijou.dev/services/discovery"
	"bijou.dev/services/gateway"
	"bijou.dev/services/hello"
	"bijou.dev/services/tracing"
)

// member is one instance of the stack.
type member struct {
	name    string // the compose service; the instance is name-n
	n       int
	service string // what it registers as; empty: name
	zone    string
	version string
	ports   map[string]int // listeners beside grpc and admin, by the port of compose.yaml
	noGRPC  bool
	setup   func(p *inProcess, dir string) service.SetupFunc
}

func (m member) instance() string { return fmt.Sprintf("%s-%d", m.name, m.n) }

// stackMembers are the instances of compose.yaml without the audience: stories send their own load.
var stackMembers = []member{
	{name: "config", n: 1, ports: map[string]int{"http": 8080}, setup: setupConfig},
	{name: "config", n: 2, ports: map[string]int{"http": 8080}, setup: setupConfig},
	{name: "discovery", n: 1, ports: map[string]int{"http": 8761}, setup: setupDiscovery},
	{name: "discovery", n: 2, ports: map[string]int{"http": 8761}, setup: setupDiscovery},
	{
		name: "gateway", n: 1, noGRPC: true, ports: map[string]int{"http": 8080},
		setup: func(*inProcess, string) service.SetupFunc {
			return func(ctx context.Context, setup *service.Setup) error {
				return gateway.New(ctx, setup, gateway.Options{Routes: composeRoutes()})
			}
		},
	},
	{name: "circuits", n: 1, ports: map[string]int{"http": 8080}, setup: func(*inProcess, string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return circuits.New(ctx, setup, circuits.Options{})
		}
	}},
	{
		name: "tracing", n: 1, noGRPC: true, ports: map[string]int{"otlp": 4317, "otlphttp": 4318, "zipkin": 9411},
		setup: func(_ *inProcess, dir string) service.SetupFunc {
			return func(ctx context.Context, setup *service.Setup) error {
				return tracing.New(ctx, setup, tracing.Options{Dir: dir})
			}
		},
	},
	{name: "console", n: 1, ports: map[string]int{"http": 8080}, setup: func(*inProcess, string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return console.New(ctx, setup, console.Options{})
		}
	}},
	{name: "web", n: 1, ports: map[string]int{"http": 8080}, setup: func(*inProcess, string) service.SetupFunc {
		return web.New
	}},
	{name: "catalog-a", n: 1, service: "catalog", setup: setupCatalog},
	{name: "catalog-a", n: 2, service: "catalog", setup: setupCatalog},
	{name: "catalog-b", n: 1, service: "catalog", zone: "b", setup: setupCatalog},
	{name: "recommendations-a", n: 1, service: "recommendations", setup: setupRecommendations},
	{name: "recommendations-b", n: 1, service: "recommendations", zone: "b", setup: setupRecommendations},
	{name: "search", n: 1, setup: func(*inProcess, string) service.SetupFunc {
		return search.New
	}},
	{name: "profiles", n: 1, setup: func(_ *inProcess, dir string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return profiles.New(ctx, setup, profiles.Options{Dir: dir})
		}
	}},
	{name: "viewing", n: 1, setup: func(_ *inProcess, dir string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return viewing.New(ctx, setup, viewing.Options{Dir: dir})
		}
	}},
	{name: "ratings", n: 1, setup: func(_ *inProcess, dir string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return ratings.New(ctx, setup, ratings.Options{Dir: dir})
		}
	}},
	{name: "playback", n: 1, setup: func(_ *inProcess, dir string) service.SetupFunc {
		return func(ctx context.Context, setup *service.Setup) error {
			return playback.New(ctx, setup, playback.Options{Dir: dir})
		}
	}},
	{name: "hello", n: 1, version: "v1", ports: map[string]int{"http": 8080}, setup: setupHello},
	{name: "hello-next", n: 1, service: "hello", version: "v2", ports: map[string]int{"http": 8080}, setup: setupHello},
}

func setupConfig(s *inProcess, _ string) service.SetupFunc {
	return func(ctx context.Context, setup *service.Setup) error {
		return config.New(ctx, setup, config.Options{EtcdEndpoints: s.etcd.Endpoints()})
	}
}

func setupDiscovery(s *inProcess, _ string) service.SetupFunc {
	return func(ctx context.Context, setup *service.Setup) error {
		return discovery.New(ctx, setup, discovery.Options{EtcdEndpoints: s.etcd.Endpoints()})
	}
}

func setupCatalog(*inProcess, string) service.SetupFunc {
	return catalog.New
}

func setupRecommendations(*inProcess, string) service.SetupFunc {
	return recommendations.New
}

func setupHello(*inProcess, string) service.SetupFunc {
	return func(ctx context.Context, setup *service.Setup) error { return hello.New(ctx, setup, hello.Options{}) }
}

// inProcess runs all stackMembers in this process.
type inProcess struct {
	etcd *etcdtest.Server
	dir  string

	mu    sync.Mutex
	ports map[string]int            // "instance/listener" -> port, stable over restarts
	live  map[string]*runningMember // by instance
}

// runningMember is a started member.
type runningMember struct {
	member
	p      *service.Process
	net    *wire
	log    *tail
	cancel context.CancelFunc
	done   chan error
}

// startInProcess starts all stackMembers, in random order if shuffle is not nil.
func startInProcess(t testing.TB, shuffle *rand.Rand) *inProcess {
	t.Helper()
	s := &inProcess{
		etcd: etcdtest.Start(t), dir: t.TempDir(), ports: map[string]int{},
		live: map[string]*runningMember{},
	}
	t.Cleanup(func() { s.stopAll(t) })
	order := slices.Clone(stackMembers)
	if shuffle != nil {
		shuffle.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	// The addresses of the registry must be known before any instance starts.
	for _, m := range stackMembers {
		if m.name == "discovery" {
			s.port(t, m, "grpc")
		}
	}
	for _, m := range order {
		s.run(t, m)
	}
	return s
}

// port returns the port of a listener: any free one at first, then always the same. It is below the range that the
// kernel gives to outgoing connections, so that it is still free when the instance is started again.
func (s *inProcess) port(t testing.TB, m member, listener string) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := m.instance() + "/" + listener
	for try := 0; s.ports[key] == 0; try++ {
		port := 20000 + rand.IntN(12000)
		if _, found := drawn.LoadOrStore(port, true); found {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		switch {
		case err == nil:
			s.ports[key] = port
			l.Close()
		case try > 100:
			t.Fatal(err)
		}
	}
	return s.ports[key]
}

// drawn are the ports of all stacks in this process: a port is free until its instance listens, and another stack must
// not take it meanwhile.
var drawn sync.Map

func (s *inProcess) seeds() (seeds []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range []string{"discovery-1", "discovery-2"} {
		seeds = append(seeds, fmt.Sprintf("127.0.0.1:%d", s.ports[id+"/grpc"]))
	}
	return seeds
}

func (s *inProcess) run(t testing.TB, m member) {
	t.Helper()
	a := &runningMember{member: m, net: newWire(), log: &tail{}, done: make(chan error, 1)}
	listen := map[string]string{}
	names := append(slices.Collect(maps.Keys(m.ports)), "admin")
	if !m.noGRPC {
		names = append(names, "grpc")
	}
	for _, l := range names {
		listen[l] = fmt.Sprintf("127.0.0.1:%d", s.port(t, m, l))
	}
	name := m.service
	if name == "" {
		name = m.name
	}
	dir := filepath.Join(s.dir, m.instance())
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	var err error
	a.p, err = service.New(ctx, service.Options{
		Name: name, Instance: m.instance(), Zone: m.zone, Version: m.version, Listen: listen, Discovery: s.seeds(),
		StateDir: filepath.Join(dir, "state"), Drain: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(a.log, nil)),
		Net: service.Net{Listen: a.net.listen, DialContext: a.net.dial},
	}, m.setup(s, filepath.Join(dir, "data")))
	if err != nil {
		a.cancel()
		t.Fatalf("starting %s: %v", m.instance(), err)
	}
	go func() { a.done <- a.p.Run(ctx) }()
	s.mu.Lock()
	s.live[m.instance()] = a
	s.mu.Unlock()
}

// remove removes an instance from those that run, and returns it.
func (s *inProcess) remove(t testing.TB, instance string) *runningMember {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.live[instance]
	if a == nil {
		t.Fatalf("no instance %s is running", instance)
	}
	delete(s.live, instance)
	return a
}

func (a *runningMember) stop(t testing.TB) {
	a.cancel()
	select {
	case err := <-a.done:
		if err != nil && !a.net.wasCut() {
			t.Errorf("stopping %s: %v", a.instance(), err)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("stopping %s: it has not stopped after 30 s\n%s", a.instance(), a.log)
	}
}

func (s *inProcess) stopAll(t testing.TB) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.live))
	clear(s.live)
	s.mu.Unlock()
	if t.Failed() {
		for _, a := range all {
			t.Logf("%s:\n%s", a.instance(), a.log.problems())
		}
	}
	for _, a := range all {
		a.net.cut() // draining all instances at once would take long and is not tested here
	}
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() { a.stop(t) })
	}
	wg.Wait()
}

func (s *inProcess) addr(instance string, port int) string {
	if !strings.Contains(instance, "-") || s.find(instance) == nil {
		instance += "-1"
	}
	m := s.find(instance)
	if m == nil {
		return ""
	}
	listener := map[int]string{7000: "grpc", 9090: "admin"}[port]
	for l, p := range m.ports {
		if p == port {
			listener = l
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("127.0.0.1:%d", s.ports[instance+"/"+listener])
}

func (s *inProcess) find(instance string) *member {
	for _, m := range stackMembers {
		if m.instance() == instance {
			return &m
		}
	}
	return nil
}

// hold simulates a crash: every connection is reset, and no data is sent or received any more.
func (s *inProcess) hold(t testing.TB, instance string) {
	t.Helper()
	if instance == "etcd-1" {
		s.etcd.Stop()
		return
	}
	a := s.remove(t, instance)
	a.net.cut()
	a.stop(t)
}

func (s *inProcess) kill(t testing.TB, instance string) {
	t.Helper()
	s.hold(t, instance)
	s.start(t, instance)
}

func (s *inProcess) start(t testing.TB, instance string) {
	t.Helper()
	if instance == "etcd-1" {
		s.etcd.Restart()
		return
	}
	s.run(t, *s.find(instance))
}

func (s *inProcess) restart(t testing.TB, instance string) {
	t.Helper()
	s.remove(t, instance).stop(t)
	s.start(t, instance)
}

func (s *inProcess) logs(instance string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.live[instance]; a != nil {
		return a.log.String()
	}
	return ""
}

// rate is low: all instances share one process with the race detector.
func (s *inProcess) rate() int { return 10 }

// pause holds back the data of an instance in both directions without closing connections. To its peers that is
// SIGSTOP.
func (s *inProcess) pause(t testing.TB, instance string) { s.wireOf(t, instance).slow(time.Hour) }

// resume ends pause and slow.
func (s *inProcess) resume(t testing.TB, instance string) { s.wireOf(t, instance).slow(0) }

// slow delays the data that an instance receives by d.
func (s *inProcess) slow(t testing.TB, instance string, d time.Duration) {
	s.wireOf(t, instance).slow(d)
}

// reset resets all connections of an instance. New ones can be opened at once.
func (s *inProcess) reset(t testing.TB, instance string) { s.wireOf(t, instance).resetAll() }

func (s *inProcess) wireOf(t testing.TB, instance string) *wire {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.live[instance]
	if a == nil {
		t.Fatalf("no instance %s is running", instance)
	}
	return a.net
}

// wire is the network of one member. It can reset all connections as a crash does, and it can delay or hold back data.
type wire struct {
	mu      sync.Mutex
	isCut   bool
	open    map[net.Conn]bool
	ls      []net.Listener
	delay   time.Duration
	changed chan struct{}   // closed when the delay changes
	lost    map[string]bool // addresses that cannot be reached
}

func newWire() *wire { return &wire{open: map[net.Conn]bool{}, changed: make(chan struct{})} }

func (w *wire) slow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = d
	close(w.changed)
	w.changed = make(chan struct{})
}

// wait delays data that was received.
func (w *wire) wait() {
	w.mu.Lock()
	d, changed := w.delay, w.changed
	w.mu.Unlock()
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	}
}

func (w *wire) resetAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		reset(c)
	}
	clear(w.open)
}

// lose resets the connections to some addresses and refuses new ones, until it is called without addresses.
func (w *wire) lose(addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = map[string]bool{}
	for _, a := range addrs {
		w.lost[a] = true
	}
	for c := range w.open {
		if w.lost[c.RemoteAddr().String()] {
			reset(c)
			delete(w.open, c)
		}
	}
}

func (w *wire) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ls = append(w.ls, l)
	return wireListener{l, w}, nil
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	unreachable := w.isCut || w.lost[address]
	w.mu.Unlock()
	if unreachable {
		return nil, net.ErrClosed
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return w.own(c), nil
}

func (w *wire) own(c net.Conn) net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut || w.lost[c.RemoteAddr().String()] { // it was being opened when the addresses were lost
		reset(c)
		return c
	}
	w.open[c] = true
	return wireConn{c, w}
}

func (w *wire) wasCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isCut
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	close(w.changed)
	w.changed, w.delay = make(chan struct{}), 0
	for _, l := range w.ls {
		l.Close()
	}
	for c := range w.open {
		reset(c)
	}
	clear(w.open)
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

type wireListener struct {
	net.Listener
	w *wire
}

func (l wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.w.own(c), nil
}

type wireConn struct {
	net.Conn
	w *wire
}

// Read reads, with the delay of the wire.
func (c wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.wait()
	return n, err
}

func (c wireConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.open, c.Conn)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// tail keeps the last of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b.Len() > 64<<10 {
		t.b.Next(32 << 10)
	}
	return t.b.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// problems returns the last lines with a level other than INFO.
func (t *tail) problems() string {
	var odd []string
	for line := range strings.Lines(t.String()) {
		if !strings.Contains(line, "level=INFO") {
			odd = append(odd, line)
		}
	}
	return strings.Join(odd[max(0, len(odd)-20):], "")
}

func TestInProcess(t *testing.T) {
	p := startInProcess(t, nil)
	runStories(t, p)
	runShortFaults(t, p, oneProcess)
}
