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
	"bijou.dev/platform/pace"
	"bijou.dev/platform/service"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// seedsOf returns the addresses of the registry.
func seedsOf(p platform) []string {
	return []string{p.addr("discovery-1", 7000), p.addr("discovery-2", 7000)}
}

// joinService runs an instance of the service name in this process until the test ends. It serves gRPC, and HTTP if
// setup has a handler for it.
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

// withRoutes adds routes to those of the edge. undo restores the routes of before.
func withRoutes(t testing.TB, p platform, more ...map[string]any) (undo func()) {
	t.Helper()
	waitDeclared(t, p)
	before, _, err := effective(t.Context(), p, "gateway-1", "gateway.routes")
	if err != nil {
		t.Fatal(err)
	}
	var routes []map[string]any
	if err := json.Unmarshal([]byte(before), &routes); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(append(routes, more...))
	if err != nil {
		t.Fatal(err)
	}
	must(t, p, "config", "set", "gateway.routes", string(b), "--app", "gateway", "--reason", "a story", "--wait", "20s")
	return func() { unset(t, p, "gateway.routes", "gateway") }
}

// waitForBaseline reads the resource use of every instance. The returned function waits until each is back at it.
func waitForBaseline(t testing.TB, p platform, victims ...string) (wait func()) {
	before := readStats(t.Context(), p)
	return func() {
		t.Helper()
		eventually(t, time.Minute, "every instance to use as little as before", func(ctx context.Context) error {
			return leaks(before, readStats(ctx, p), victims)
		})
	}
}

// talk is a gRPC service: a call of Do runs do, a stream of Echo returns every message.
func talk(do func(ctx context.Context, in string) error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "bijou.e2e.v1.Talk", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(_ any, ctx context.Context, dec func(any) error,
			around grpc.UnaryServerInterceptor,
		) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			info := &grpc.UnaryServerInfo{FullMethod: "/bijou.e2e.v1.Talk/Do"}
			return around(ctx, in, info, func(ctx context.Context, _ any) (any, error) { return in, do(ctx, in.Value) })
		}}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Echo", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
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
			},
		}},
	}
}

// talkRoutes are the routes to a service that serves talk.
func talkRoutes(name string) []map[string]any {
	return []map[string]any{
		{"name": name, "match": map[string]any{"prefix": "/" + name}, "to": []map[string]any{{"service": name}}},
		{
			"name": name + "-grpc", "match": map[string]any{"prefix": "/bijou.e2e.v1.Talk"},
			"to": []map[string]any{{"service": name, "endpoint": "grpc"}},
		},
	}
}

// dialEdge returns a connection of a gRPC client to the edge.
func dialEdge(t testing.TB, p platform) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr("gateway-1", 8080),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// conversationEnd is how a WebSocket or a stream through the edge ended.
type conversationEnd struct {
	at  time.Time
	why string // empty: it was closed as expected
}

// The connections through the edge when it is stopped, and the size and number of pieces of each download.
const (
	sockets, streams, downloads    = 200, 50, 20
	downloadSize, downloadInPieces = 256 << 10, 8
)

// faultEdgeRestarts restarts the edge while WebSockets, streams and downloads go through it. Each WebSocket and stream
// must be closed with the right code, between two messages. Each download must be complete.
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
	eventually(t, 20*time.Second, "the routes to work", func(context.Context) error {
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
					t.Logf("a WebSocket or stream ended with %s", x.why)
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("20 s after the edge was stopped %d WebSockets and streams are still open",
				sockets+streams-len(moments))
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
				pace.Sleep(t.Context(), rand.N(100*time.Millisecond))
			}
			t.Error("a WebSocket could not be opened again within 20 s")
		})
	}
	back.Wait()
	returned := time.Since(restarted)
	end()
	settled()
	spread := slices.MaxFunc(moments, time.Time.Compare).Sub(slices.MinFunc(moments, time.Time.Compare))
	f = figures{offered: sockets + streams + downloads, failed: unclean + cut}
	f.note = fmt.Sprintf("%d WebSockets were closed with 1001 and %d gRPC streams ended with UNAVAILABLE, spread "+
		"over %v of the 2 s that the edge takes for it; %d downloads were complete; the edge was down for %v, and %v "+
		"later all WebSockets were open again",
		sockets, streams, spread.Round(10*time.Millisecond), downloads,
		restarted.Sub(begin).Round(100*time.Millisecond),
		returned.Round(10*time.Millisecond))
	if f.failed > 0 {
		f.missed = append(f.missed,
			fmt.Sprintf("%d WebSockets and streams and %d downloads were cut off", unclean, cut))
	}
	return f
}

// socketTo opens a WebSocket through the edge.
func socketTo(p platform) (*websocket.Conn, error) {
	c, res, err := (&websocket.Dialer{HandshakeTimeout: within}).Dial("ws://"+p.addr("gateway-1", 8080)+"/e2e-talk/ws",
		nil)
	if res != nil && res.Body != nil {
		_ = res.Body.Close() // the dialer has read the body
	}
	return c, err
}

// converseAll opens all WebSockets and streams and returns when each has got a message back. They end with ctx at the
// latest.
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

// downloadAll begins all downloads, half of them by HTTP/2, and returns when each has its header. truncated waits for
// their ends and returns how many were cut off.
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

// drip writes its response over two seconds.
func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(downloadSize))
	for range downloadInPieces {
		_, _ = w.Write(make([]byte, downloadSize/downloadInPieces)) // fails only if the client disconnected
		_ = http.NewResponseController(w).Flush()
		pace.Sleep(r.Context(), 2*time.Second/downloadInPieces)
	}
}

// echoFrames returns every message of a WebSocket.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered the client
	}
	defer c.Close()
	for {
		kind, b, err := c.ReadMessage()
		if err != nil || c.WriteMessage(kind, b) != nil {
			return
		}
	}
}

// converse sends messages and expects them back in order until the other side closes. It calls received after the first
// message that came back.
func converse(ctx context.Context, received func(), send func(string) error, receive func() (string, error),
	clean func(error) bool,
) conversationEnd {
	once := sync.OnceFunc(received)
	defer once()
	over := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(over)
	writer.Go(func() {
		for i := 0; ; i++ {
			if send(strconv.Itoa(i)) != nil {
				return // the reader below gets the reason
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

// download reads a response to its end and returns its length. It calls begun when the header of the response is there.
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

// startChain runs two services in this process. The first, e2e-front, serves HTTP and gRPC and calls the second for
// each request. The second, e2e-back, runs work.
func startChain(t *testing.T, p platform, work func(ctx context.Context, in string) error,
	passing func(ctx context.Context),
) (undo func()) {
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
	eventually(t, 20*time.Second, "a request through the edge and e2e-front to reach e2e-back",
		func(ctx context.Context) error {
			a, err := get(ctx, edge(p)+"/e2e-front")
			if err != nil || a.status != http.StatusOK {
				return fmt.Errorf("%d %v %.200s", a.status, err, a.body)
			}
			return nil
		})
	return undo
}

// faultDeadlineExpires calls, through the edge and with a deadline of 50 ms, a service that calls another one, which
// works for half a second.
func faultDeadlineExpires(t *testing.T, p platform, _ uint64) (f figures) {
	waitForHome(t, p)
	const calls, timeout, step = 100, 50 * time.Millisecond, 5 * time.Millisecond
	var worked, late atomic.Int64 // steps of work, and those after the deadline
	var mu sync.Mutex
	var left [2][]time.Duration // the time left when the first and the second service were called
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
			if !pace.Sleep(ctx, step) {
				return ctx.Err()
			}
			if worked.Add(1); time.Now().After(time.UnixMicro(expiry)) {
				late.Add(1)
			}
		}
		return nil
	}
	defer startChain(t, p, work, func(ctx context.Context) { given(0, ctx) })()
	// Without this setting the circuit between the two services would open, and no call would reach e2e-back.
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
		ctx, cancel := context.WithDeadline(t.Context(), begin.Add(timeout))
		in := strconv.FormatInt(begin.Add(timeout).UnixMicro(), 10)
		err := conn.Invoke(ctx, "/bijou.e2e.v1.Talk/Do", wrapperspb.String(in), new(wrapperspb.StringValue))
		cancel()
		f.offered++
		if rpcstatus.Code(err) != codes.DeadlineExceeded {
			f.failed++
			t.Logf("a call with an expired deadline ended with %v, want DEADLINE_EXCEEDED", err)
		}
	}
	if err := conn.Invoke(t.Context(), "/bijou.e2e.v1.Talk/Do", wrapperspb.String(""),
		new(wrapperspb.StringValue)); err != nil {
		f.missed = append(f.missed, "a call without a deadline after the others: "+err.Error())
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
	f.note = fmt.Sprintf("of 50 ms the first service had %v left, the second %v (medians); %.1f %% of the work was "+
		"done after the deadline",
		median(0).Round(100*time.Microsecond), median(1).Round(100*time.Microsecond), 100*share)
	switch {
	case f.failed > 0:
		f.missed = append(f.missed, fmt.Sprintf("%d calls did not end by their deadline", f.failed))
	case worked.Load() < calls:
		f.missed = append(f.missed, fmt.Sprintf("only %d steps of work were done", worked.Load()))
	case median(0) > timeout || median(1) > median(0):
		f.missed = append(f.missed,
			fmt.Sprintf("the first service had %v left of 50 ms and the second %v; each hop must have less than the "+
				"one before",
				median(0), median(1)))
	case share > .05 && strictTiming() || share > .5:
		f.missed = append(f.missed, fmt.Sprintf("%.1f %% of the work was done after the deadline, want at most 5 %%",
			100*share))
	}
	return f
}

// strictTiming reports whether figures must be those of a quiet machine. make test also runs on busy ones.
func strictTiming() bool { return *faultsFile != "" }

// faultClientsDisconnect disconnects clients in the middle of requests, by HTTP/1.1, HTTP/2 and gRPC.
func faultClientsDisconnect(t *testing.T, p platform, _ uint64) (f figures) {
	waitForHome(t, p)
	began, ended := make(chan struct{}), make(chan time.Time)
	work := func(ctx context.Context, in string) error {
		if in == "" {
			return nil
		}
		began <- struct{}{}
		pace.Sleep(ctx, 5*time.Second)
		ended <- time.Now()
		return ctx.Err()
	}
	defer startChain(t, p, work, func(context.Context) {})()
	// Without this setting the circuit would end the work after a second.
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
	eventually(t, 10*time.Second, "the edge to have no requests in flight", func(ctx context.Context) error {
		n, err := metric(ctx, p, "gateway-1", "bijou_gateway_requests_in_flight")
		if err != nil || n > 0 {
			return fmt.Errorf("%v requests are in flight, error %v", n, err)
		}
		return nil
	})
	settled()
	f.note = "two services behind the edge the work ended after at most " + strings.Join(notes, ", ") +
		" (aimed at 200 ms)"
	if f.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("for %d of %d requests the work was not canceled", f.failed, f.offered))
	}
	return f
}

// faultClientsReconnectAtOnce closes the connections of two thousand clients, connects them again at once, and then
// registers five hundred instances at once, while it sends other requests.
func faultClientsReconnectAtOnce(t *testing.T, p platform, seed uint64) (f figures) {
	url := waitForHome(t, p)
	clients := make([]*edgeClient, 2000)
	for i := range clients {
		// The edge limits the connections of one address. The other requests come from 127.0.0.1.
		clients[i] = &edgeClient{from: net.IPv4(127, 0, 0, byte(2+i%8)), to: p.addr("gateway-1", 8080)}
		defer clients[i].drop()
	}
	connectAll(t, clients, 50)
	for _, s := range clients {
		s.drop()
	}
	o := startOffer(t, seed, p.rate(), url, edge(p)+"/browse", edge(p)+"/")
	o.runFor(t, 3*time.Second)
	settled := waitForBaseline(t, p, "hello-1") // the edge keeps its connections to hello-1 for a minute
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
		t.Logf("%d of the other requests failed: %s", n, why)
	}
	f.note = fmt.Sprintf("%d clients were connected again after %v (refused at first: %v); %s; the columns are of "+
		"the other requests",
		len(clients), back.after.Round(10*time.Millisecond), back.refusals, newcomers)
	if others.failed > 0 {
		f.missed = append(f.missed, fmt.Sprintf("%d of %d other requests failed", others.failed, others.offered))
	}
	if max(back.after, known) > 15*time.Second {
		f.missed = append(f.missed,
			fmt.Sprintf("reconnecting took %v and registering %v, want at most 15 s", back.after, known))
	}
	return f
}

// reconnection is how long it took to connect clients, and how their first attempts failed.
type reconnection struct {
	after    time.Duration
	refusals map[string]int // error -> number of clients whose first attempt got it
}

// connectAll connects clients, at most atOnce at the same time.
func connectAll(t testing.TB, clients []*edgeClient, atOnce int) (c reconnection) {
	t.Helper()
	begin := time.Now()
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, s := range clients {
		all.Go(func() error { return s.until200(t.Context()) })
	}
	if err := all.Wait(); err != nil {
		t.Fatalf("a client could not connect: %v", err)
	}
	c = reconnection{time.Since(begin), map[string]int{}}
	for _, s := range clients {
		if s.why != "" {
			c.refusals[s.why]++
		}
	}
	return c
}

// registerAll registers five hundred instances at once and deregisters them. It returns how long it took until every
// replica of the registry had all of them.
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
					return fmt.Errorf("%s has %d instances of newcomer, want %d; error %v", r, n, want, err)
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
		in := members.Instance{
			Service: "newcomer", ID: id, Status: members.Up,
			Endpoints: map[string]string{"grpc": fmt.Sprint("192.0.2.1:", 1+i)},
		}
		if registrars[i], err = members.NewRegistrar(c, in, members.RegistrarOptions{}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { _ = registrars[i].Run(ctx) }) // it returns nil
	}
	eventually(t, 30*time.Second, "all newcomers in both registries", count(len(registrars)))
	known = time.Since(begin)
	o.runFor(t, 5*time.Second)
	spent = cpu() - spent
	note = fmt.Sprintf("%d instances started at once, and both registries had all of them after %v; the registries "+
		"used %.2f s of CPU in %v",
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

// registeredAs returns how many instances of a service a replica of the registry has.
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
	why  string   // the error of the first attempt; empty: it succeeded
}

func (s *edgeClient) drop() {
	if s.conn != nil {
		reset(s.conn)
		s.conn = nil
	}
}

// until200 connects and sends requests until it gets status 200, with a jittered back-off between attempts.
func (s *edgeClient) until200(ctx context.Context) error {
	s.why = ""
	retry := pace.Backoff{First: 50 * time.Millisecond, Max: time.Second}
	for begin := time.Now(); ; {
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
		if !retry.Wait(ctx) {
			return err
		}
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
