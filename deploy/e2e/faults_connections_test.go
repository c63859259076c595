package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	members "bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/service"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// seedsOf is where newcomers ask for the others.
func seedsOf(p platform) []string {
	return []string{p.addr("discovery-1", 7000), p.addr("discovery-2", 7000)}
}

// join makes this process an instance of a service of its own until the test ends: gRPC, and HTTP if setup handles it.
func joinService(t testing.TB, p platform, name string, setup service.SetupFunc) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	log := &tail{}
	member, err := service.New(ctx, service.Options{
		Name: name, Instance: name + "-1", Discovery: seedsOf(p), StateDir: t.TempDir(), Drain: 2 * time.Second,
		Listen: map[string]string{"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0"},
		Log:    slog.New(slog.NewTextHandler(log, nil)),
	}, setup)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		if err := member.Run(ctx); err != nil {
			t.Errorf("running %s: %v\n%s", name, err, log.problems())
		}
	})
	t.Cleanup(func() { stop(); done.Wait() })
}

// withRoutes adds routes to those of the edge. What it returns takes them away.
func withRoutes(t testing.TB, p platform, more ...map[string]any) (undo func()) {
	t.Helper()
	waitDeclared(t, p)
	now, _, err := effective(t.Context(), p, "gateway-1", "gateway.routes")
	if err != nil {
		t.Fatal(err)
	}
	var routes []map[string]any
	if err := json.Unmarshal([]byte(now), &routes); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(append(routes, more...))
	if err != nil {
		t.Fatal(err)
	}
	must(t, p, "config", "set", "gateway.routes", string(b), "--app", "gateway", "--reason", "a story", "--wait", "20s")
	return func() { unset(t, p, "gateway.routes", "gateway") }
}

// waitForBaseline returns what waits until every instance is as it is now.
func waitForBaseline(t testing.TB, p platform, victims ...string) (wait func()) {
	before := readStats(t.Context(), p)
	return func() {
		t.Helper()
		eventually(t, time.Minute, "everybody to be as before", func(ctx context.Context) error {
			return leaks(before, readStats(ctx, p), victims)
		})
	}
}

// talk is a gRPC service whose calls are work and whose streams say everything back.
func talk(do func(ctx context.Context, in string) error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "bijou.e2e.v1.Talk", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(_ any, ctx context.Context, dec func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			info := &grpc.UnaryServerInfo{FullMethod: "/bijou.e2e.v1.Talk/Do"}
			return around(ctx, in, info, func(ctx context.Context, _ any) (any, error) { return in, do(ctx, in.Value) })
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(in); err != nil {
					return err
				}
			}
		}}},
	}
}

// talkRoutes are the routes to a service that talks.
func talkRoutes(name string) []map[string]any {
	return []map[string]any{
		{"name": name, "match": map[string]any{"prefix": "/" + name}, "to": []map[string]any{{"service": name}}},
		{"name": name + "-grpc", "match": map[string]any{"prefix": "/bijou.e2e.v1.Talk"}, "to": []map[string]any{{"service": name, "endpoint": "grpc"}}},
	}
}

// dialEdge returns a connection of a gRPC client to the edge.
func dialEdge(t testing.TB, p platform) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr("gateway-1", 8080), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// conversationEnd is the end of a conversation through the edge.
type conversationEnd struct {
	at  time.Time
	why string // empty: as it should be
}

// What goes through the edge when it is stopped, and how much an answer in hand has, in so many pieces.
const (
	sockets, streams, downloads    = 200, 50, 20
	downloadSize, downloadInPieces = 256 << 10, 8
)

// faultEdgeRestarts restarts the edge with conversations and downloads through it. Each conversation is to be told that it is
// over, between two messages; each download is to come to its end.
func faultEdgeRestarts(t *testing.T, p platform, _ uint64) (f figures) {
	waitForHome(t, p)
	joinService(t, p, "e2e-talk", func(_ context.Context, setup *service.Setup) error {
		setup.GRPC().RegisterService(talk(func(context.Context, string) error { return nil }), struct{}{})
		mux := http.NewServeMux()
		mux.HandleFunc("/e2e-talk/ws", echoFrames)
		mux.HandleFunc("/e2e-talk/download", drip)
		return setup.Handle("http", mux)
	})
	defer withRoutes(t, p, talkRoutes("e2e-talk")...)()
	settled := waitForBaseline(t, p, "gateway-1")
	eventually(t, 20*time.Second, "the routes", func(context.Context) error {
		c, err := socketTo(p)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	ctx, end := context.WithCancel(t.Context())
	var talks sync.WaitGroup
	defer func() { end(); talks.Wait() }()
	ends := converseAll(ctx, t, p, &talks)
	truncated := downloadAll(ctx, t, p)

	begin := time.Now()
	p.restart(t, "gateway-1")
	restarted := time.Now()
	var moments []time.Time
	unclean := 0
	for range sockets + streams {
		select {
		case x := <-ends:
			moments = append(moments, x.at)
			if x.why != "" {
				if unclean++; unclean <= 5 {
					t.Logf("a conversation ended with %s", x.why)
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d conversations go on", sockets+streams-len(moments))
		}
	}
	cut := truncated()
	var back sync.WaitGroup
	for range sockets {
		back.Go(func() {
			for time.Since(restarted) < 20*time.Second {
				if c, err := socketTo(p); err == nil {
					_ = c.Close()
					return
				}
				<-time.After(rand.N(100 * time.Millisecond))
			}
			t.Error("a WebSocket did not come back")
		})
	}
	back.Wait()
	returned := time.Since(restarted)
	end()
	settled()
	spread := slices.MaxFunc(moments, time.Time.Compare).Sub(slices.MinFunc(moments, time.Time.Compare))
	f = figures{offered: sockets + streams + downloads, failed: unclean + cut}
	f.note = fmt.Sprintf("%d WebSockets were closed with 1001 and %d gRPC streams ended with UNAVAILABLE, spread over %v of the 2 s that the edge takes for it; %d downloads came to their end; the edge was away for %v, and %v later all WebSockets were back",
		sockets, streams, spread.Round(10*time.Millisecond), downloads, restarted.Sub(begin).Round(100*time.Millisecond), returned.Round(10*time.Millisecond))
	if f.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("%d conversations and %d downloads were cut off", unclean, cut))
	}
	return f
}

// socketTo opens a WebSocket through the edge.
func socketTo(p platform) (*websocket.Conn, error) {
	c, res, err := (&websocket.Dialer{HandshakeTimeout: within}).Dial("ws://"+p.addr("gateway-1", 8080)+"/e2e-talk/ws", nil)
	if res != nil && res.Body != nil {
		_ = res.Body.Close() // the dialler has read it
	}
	return c, err
}

// converseAll begins all conversations and returns when each has had an answer. They end with ctx at the latest.
func converseAll(ctx context.Context, t testing.TB, p platform, running *sync.WaitGroup) <-chan conversationEnd {
	ends := make(chan conversationEnd, sockets+streams)
	var open sync.WaitGroup
	begin := func(send func(string) error, receive func() (string, error), clean func(error) bool) {
		open.Add(1)
		running.Go(func() { ends <- converse(ctx, open.Done, send, receive, clean) })
	}
	for range sockets {
		c, err := socketTo(p)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { <-ctx.Done(); _ = c.Close() })
		begin(func(text string) error { return c.WriteMessage(websocket.TextMessage, []byte(text)) },
			func() (string, error) { _, b, err := c.ReadMessage(); return string(b), err },
			func(err error) bool { return websocket.IsCloseError(err, websocket.CloseGoingAway) })
	}
	var conn *grpc.ClientConn
	for i := range streams {
		if i%5 == 0 {
			conn = dialEdge(t, p)
		}
		s, err := conn.NewStream(ctx, &talk(nil).Streams[0], "/bijou.e2e.v1.Talk/Echo")
		if err != nil {
			t.Fatal(err)
		}
		begin(func(text string) error { return s.SendMsg(wrapperspb.String(text)) },
			func() (string, error) {
				out := new(wrapperspb.StringValue)
				err := s.RecvMsg(out)
				return out.Value, err
			},
			func(err error) bool {
				return rpcstatus.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "the edge is stopping")
			})
	}
	open.Wait()
	return ends
}

// downloadAll begins all downloads, half of them by HTTP/2, and returns when each has its header. What it returns waits for their
// ends and says how many were cut off.
func downloadAll(ctx context.Context, t testing.TB, p platform) (truncated func() int) {
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	var begun, loaded sync.WaitGroup
	var cut atomic.Int64
	for i := range downloads {
		by := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if i%2 == 0 {
			by.Transport = h2
		}
		begun.Add(1)
		loaded.Go(func() {
			if n, err := download(ctx, by, edge(p)+"/e2e-talk/download", begun.Done); err != nil || n != downloadSize {
				cut.Add(1)
				t.Logf("a download ended after %d bytes: %v", n, err)
			}
		})
	}
	begun.Wait()
	return func() int {
		loaded.Wait()
		h2.CloseIdleConnections()
		return int(cut.Load())
	}
}

// drip takes two seconds to answer.
func drip(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(downloadSize))
	for range downloadInPieces {
		_, _ = w.Write(make([]byte, downloadSize/downloadInPieces)) // who is gone gets none
		_ = http.NewResponseController(w).Flush()
		<-time.After(2 * time.Second / downloadInPieces)
	}
}

// echoFrames says every message of a WebSocket back.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return // the client has been told
	}
	defer c.Close()
	for {
		kind, b, err := c.ReadMessage()
		if err != nil || c.WriteMessage(kind, b) != nil {
			return
		}
	}
}

// converse sends messages and expects them back in order until the other side ends it. It calls heard with the first answer.
func converse(ctx context.Context, heard func(), send func(string) error, receive func() (string, error), clean func(error) bool) conversationEnd {
	once := sync.OnceFunc(heard)
	defer once()
	over := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(over)
	writer.Go(func() {
		for i := 0; ; i++ {
			if send(strconv.Itoa(i)) != nil {
				return // whoever reads knows why
			}
			select {
			case <-time.After(250*time.Millisecond + rand.N(500*time.Millisecond)):
			case <-over:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	for i := 0; ; i++ {
		text, err := receive()
		switch {
		case err != nil && clean(err):
			return conversationEnd{at: time.Now()}
		case err != nil:
			return conversationEnd{time.Now(), err.Error()}
		case text != strconv.Itoa(i):
			return conversationEnd{time.Now(), fmt.Sprintf("message %d was %q", i, text)}
		}
		once()
	}
}

// download reads an answer to its end and returns its length. It calls begun when the answer's header is there.
func download(ctx context.Context, by *http.Client, url string, begun func()) (int64, error) {
	once := sync.OnceFunc(begun)
	defer once()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := by.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	once()
	return io.Copy(io.Discard, res.Body)
}

// chain joins two services, one behind the other. What the second does is up to the test; the first asks it, for those
// who come by HTTP and by gRPC.
func startChain(t *testing.T, p platform, work func(ctx context.Context, in string) error, passing func(ctx context.Context)) (undo func()) {
	joinService(t, p, "e2e-back", func(_ context.Context, setup *service.Setup) error {
		setup.GRPC().RegisterService(talk(work), struct{}{})
		return setup.Handle("http", http.NotFoundHandler())
	})
	joinService(t, p, "e2e-front", func(_ context.Context, setup *service.Setup) error {
		back, err := setup.Dial("e2e-back")
		if err != nil {
			return err
		}
		ask := func(ctx context.Context, in string) error {
			passing(ctx)
			return back.Invoke(ctx, "/bijou.e2e.v1.Talk/Do", wrapperspb.String(in), new(wrapperspb.StringValue))
		}
		setup.GRPC().RegisterService(talk(ask), struct{}{})
		return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := ask(r.Context(), r.URL.Query().Get("in")); err != nil {
				errs.WriteProblem(w, r, err)
			}
		}))
	})
	undo = withRoutes(t, p, talkRoutes("e2e-front")...)
	eventually(t, 20*time.Second, "the way to the last of them", func(ctx context.Context) error {
		a, err := get(ctx, edge(p)+"/e2e-front")
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%d %v %.200s", a.status, err, a.body)
		}
		return nil
	})
	return undo
}

// faultDeadlineExpires asks through the edge, with a deadline of 50 ms, a service that asks another one for half a second of work.
func faultDeadlineExpires(t *testing.T, p platform, _ uint64) (f figures) {
	waitForHome(t, p)
	const calls, patience, step = 100, 50 * time.Millisecond, 5 * time.Millisecond
	var worked, late atomic.Int64 // steps of work, and those that nobody waited for any more
	var mu sync.Mutex
	var left [2][]time.Duration // what the first and the second service were given
	given := func(hop int, ctx context.Context) {
		mu.Lock()
		defer mu.Unlock()
		if deadline, ok := ctx.Deadline(); ok {
			left[hop] = append(left[hop], time.Until(deadline))
		}
	}
	work := func(ctx context.Context, in string) error {
		if in == "" {
			return nil
		}
		given(1, ctx)
		expiry, err := strconv.ParseInt(in, 10, 64)
		if err != nil {
			return err
		}
		for begun := time.Now(); time.Since(begun) < 500*time.Millisecond; {
			select {
			case <-time.After(step):
			case <-ctx.Done():
				return ctx.Err()
			}
			if worked.Add(1); time.Now().After(time.UnixMicro(expiry)) {
				late.Add(1)
			}
		}
		return nil
	}
	defer startChain(t, p, work, func(ctx context.Context) { given(0, ctx) })()
	// The circuit between the two services is shared with nobody here. It would open, and there would be no work.
	const closed = "circuit.e2e-back.forceClosed"
	must(t, p, "config", "set", closed, "true", "--app", "e2e-front", "--reason", "a story", "--wait", "20s")
	defer unset(t, p, closed, "e2e-front")
	mu.Lock()
	left = [2][]time.Duration{}
	mu.Unlock()
	settled := waitForBaseline(t, p)
	conn := dialEdge(t, p)
	for range calls {
		begin := time.Now()
		ctx, cancel := context.WithDeadline(t.Context(), begin.Add(patience))
		in := strconv.FormatInt(begin.Add(patience).UnixMicro(), 10)
		err := conn.Invoke(ctx, "/bijou.e2e.v1.Talk/Do", wrapperspb.String(in), new(wrapperspb.StringValue))
		cancel()
		f.offered++
		if rpcstatus.Code(err) != codes.DeadlineExceeded {
			f.failed++
			t.Logf("a call that takes too long ended with %v", err)
		}
	}
	if err := conn.Invoke(t.Context(), "/bijou.e2e.v1.Talk/Do", wrapperspb.String(""), new(wrapperspb.StringValue)); err != nil {
		f.missed = append(f.missed, "the edge kept a patient client waiting for the others: "+err.Error())
	}
	settled()
	share := float64(late.Load()) / float64(max(1, worked.Load()))
	median := func(hop int) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if len(left[hop]) == 0 {
			return 0
		}
		slices.Sort(left[hop])
		return left[hop][len(left[hop])/2]
	}
	f.note = fmt.Sprintf("of 50 ms the first service was given %v, the second %v (medians); %.1f %% of the work was done when nobody waited any more",
		median(0).Round(100*time.Microsecond), median(1).Round(100*time.Microsecond), 100*share)
	switch {
	case f.failed > 0:
		f.missed = append(f.missed, fmt.Sprintf("%d calls did not end by their deadline", f.failed))
	case worked.Load() < calls:
		f.missed = append(f.missed, fmt.Sprintf("only %d steps were worked", worked.Load()))
	case median(0) > patience || median(1) > median(0):
		f.missed = append(f.missed, "deadlines do not shrink on the way")
	case share > .05 && strictTiming() || share > .5:
		f.missed = append(f.missed, "more than 5 % of the work was for nobody")
	}
	return f
}

// strictTiming: make test runs on machines that are busy.
func strictTiming() bool { return *faultsFile != "" }

// faultClientsDisconnect leaves in the middle of requests, in all the ways that clients have.
func faultClientsDisconnect(t *testing.T, p platform, _ uint64) (f figures) {
	waitForHome(t, p)
	began, ended := make(chan struct{}), make(chan time.Time)
	work := func(ctx context.Context, in string) error {
		if in == "" {
			return nil
		}
		began <- struct{}{}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
		ended <- time.Now()
		return ctx.Err()
	}
	defer startChain(t, p, work, func(context.Context) {})()
	// Circuits would end the work by themselves after a second.
	const timeout = "circuit.e2e-back.timeout"
	must(t, p, "config", "set", timeout, "10s", "--app", "e2e-front", "--reason", "a story", "--wait", "20s")
	defer unset(t, p, timeout, "e2e-front")
	settled := waitForBaseline(t, p)
	conn := dialEdge(t, p)
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	by := func(c *http.Client) func(ctx context.Context) {
		return func(ctx context.Context) { _, _ = getBy(ctx, c, edge(p)+"/e2e-front?in=work") }
	}
	var notes []string
	for _, way := range []struct {
		name string
		ask  func(ctx context.Context)
	}{
		{"HTTP/1.1", by(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}})},
		{"HTTP/2", by(&http.Client{Transport: h2})},
		{"gRPC", func(ctx context.Context) {
			_ = conn.Invoke(ctx, "/bijou.e2e.v1.Talk/Do", wrapperspb.String("work"), new(wrapperspb.StringValue))
		}},
	} {
		var worst time.Duration
		for range 20 {
			ctx, leave := context.WithCancel(t.Context())
			var asked sync.WaitGroup
			asked.Go(func() { way.ask(ctx) })
			select {
			case <-began:
			case <-time.After(10 * time.Second):
				leave()
				t.Fatalf("%s: no work began", way.name)
			}
			left := time.Now()
			leave()
			lasted := (<-ended).Sub(left)
			asked.Wait()
			f.offered++
			if lasted > 4*time.Second {
				f.failed++
			}
			worst = max(worst, lasted)
		}
		notes = append(notes, fmt.Sprintf("%v by %s", worst.Round(100*time.Microsecond), way.name))
	}
	eventually(t, 10*time.Second, "nothing in hand at the edge", func(ctx context.Context) error {
		n, err := metric(ctx, p, "gateway-1", "bijou_gateway_requests_in_flight")
		if err != nil || n > 0 {
			return fmt.Errorf("%v requests, %v", n, err)
		}
		return nil
	})
	settled()
	f.note = "two services behind the edge the work ended after at most " + strings.Join(notes, ", ") + " (aimed at 200 ms)"
	if f.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d requests were worked on to their end", f.failed, f.offered))
	}
	return f
}

// faultClientsReconnectAtOnce has two thousand clients lose their connections and come back at once, and then five hundred instances register at
// once, while others are served.
func faultClientsReconnectAtOnce(t *testing.T, p platform, seed uint64) (f figures) {
	url := waitForHome(t, p)
	clients := make([]*edgeClient, 2000)
	for i := range clients {
		// One address may have so many connections only, and the others come from the first.
		clients[i] = &edgeClient{from: net.IPv4(127, 0, 0, byte(2+i%8)), to: p.addr("gateway-1", 8080)}
		defer clients[i].drop()
	}
	connectAll(t, clients, 50)
	for _, s := range clients {
		s.drop()
	}
	o := startOffer(t, seed, p.rate(), url, edge(p)+"/browse", edge(p)+"/")
	o.runFor(t, 3*time.Second)
	settled := waitForBaseline(t, p, "hello-1") // the edge keeps its connections for a minute
	broken := time.Since(o.begun)
	back := connectAll(t, clients, len(clients))
	o.runFor(t, 5*time.Second)
	for _, s := range clients {
		s.drop()
	}
	known, newcomers := registerAll(t, p, o)
	o.runFor(t, 2*time.Second)
	end := time.Since(o.begun)
	samples := o.end()
	settled()

	was, others := windowOf(samples, 0, broken), windowOf(samples, broken, end)
	f.offered, f.failed, f.recovery = others.offered, others.failed, back.after
	f.before, f.during, f.after = was.p99, others.p99, windowOf(samples, end-2*time.Second, end).p99
	for why, n := range others.why {
		t.Logf("others: %d x %s", n, why)
	}
	f.note = fmt.Sprintf("%d clients were back after %v (refused at first: %v); %s; the requests are those of others",
		len(clients), back.after.Round(10*time.Millisecond), back.refusals, newcomers)
	if others.failed > 0 {
		f.missed = append(f.missed, "others were harmed")
	}
	if max(back.after, known) > 15*time.Second {
		f.missed = append(f.missed, "it took longer than 15 s")
	}
	return f
}

// reconnection is how a herd came back.
type reconnection struct {
	after    time.Duration
	refusals map[string]int // of first tries
}

// come connects a herd, so many at a time.
func connectAll(t testing.TB, clients []*edgeClient, atOnce int) (c reconnection) {
	t.Helper()
	begin := time.Now()
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, s := range clients {
		all.Go(func() error { return s.until200(t.Context()) })
	}
	if err := all.Wait(); err != nil {
		t.Fatalf("a client did not come back: %v", err)
	}
	c = reconnection{time.Since(begin), map[string]int{}}
	for _, s := range clients {
		if s.why != "" {
			c.refusals[s.why]++
		}
	}
	return c
}

// registerAll has five hundred instances register at once, and leave again in order, and returns how long it took until every
// registry had them all.
func registerAll(t testing.TB, p platform, o *offer) (known time.Duration, note string) {
	t.Helper()
	registries := []string{"discovery-1", "discovery-2"}
	cpu := func() (sum float64) {
		for _, r := range registries {
			n, err := metric(t.Context(), p, r, "process_cpu_seconds_total")
			if err != nil {
				t.Error(err)
			}
			sum += n
		}
		return sum
	}
	count := func(want int) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			for _, r := range registries {
				n, err := registeredAs(ctx, p, r, "newcomer")
				if err != nil || n != want {
					return fmt.Errorf("%s has %d of %d, %v", r, n, want, err)
				}
			}
			return nil
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { stop(); running.Wait() }()
	spent, begin := cpu(), time.Now()
	registrars := make([]*members.Registrar, 500)
	for i := range registrars {
		id := fmt.Sprint("newcomer-", i)
		c, err := members.New(members.Options{Seeds: seedsOf(p), Name: id})
		if err != nil {
			t.Fatal(err)
		}
		in := members.Instance{Service: "newcomer", ID: id, Status: members.Up, Endpoints: map[string]string{"grpc": fmt.Sprint("192.0.2.1:", 1+i)}}
		registrars[i] = members.NewRegistrar(c, in, members.RegistrarOptions{})
		running.Go(func() { _ = registrars[i].Run(ctx) }) // it returns nil
	}
	eventually(t, 30*time.Second, "all newcomers in both registries", count(len(registrars)))
	known = time.Since(begin)
	o.runFor(t, 5*time.Second)
	spent = cpu() - spent
	note = fmt.Sprintf("%d instances began at once, and both registries had all of them after %v, which cost the two %.2f s of CPU in %v",
		len(registrars), known.Round(10*time.Millisecond), spent, time.Since(begin).Round(100*time.Millisecond))
	var leaving errgroup.Group
	for _, r := range registrars {
		leaving.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return r.Leave(ctx)
		})
	}
	if err := leaving.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, 30*time.Second, "no newcomers", count(0))
	return known, note
}

// registeredAs counts the instances of a service in one registry.
func registeredAs(ctx context.Context, p platform, registry, service string) (n int, err error) {
	var list struct{ Instances []struct{ Service string } }
	err = getJSON(ctx, "http://"+p.addr(registry, 8761)+"/v1/instances", &list)
	for _, in := range list.Instances {
		if in.Service == service {
			n++
		}
	}
	return n, err
}

// edgeClient is a client that keeps one connection to the edge.
type edgeClient struct {
	from net.IP
	to   string
	conn net.Conn // nil: it has none
	why  string   // that the first try failed; empty: it did not
}

func (s *edgeClient) drop() {
	if s.conn != nil {
		reset(s.conn)
		s.conn = nil
	}
}

// until200 connects and asks until it gets a good answer, with the jittered back-off of a client that behaves.
func (s *edgeClient) until200(ctx context.Context) error {
	s.why = ""
	for begin, wait := time.Now(), 50*time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := s.ask(ctx)
		switch {
		case err == nil:
			return nil
		case time.Since(begin) > 30*time.Second:
			return err
		case s.why == "":
			s.why = err.Error()
		}
		s.drop()
		<-time.After(wait/2 + rand.N(wait))
	}
}

func (s *edgeClient) ask(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: s.from}}).DialContext(ctx, "tcp", s.to)
	if err != nil {
		return err
	}
	s.conn = c
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET /hello/version HTTP/1.1\r\nHost: edge\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s", res.StatusCode, res.Header.Get("X-Bijou-Fault"))
	}
	return nil
}
