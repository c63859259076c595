package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/text"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// CheckKind is how an instance is asked for its health.
type CheckKind string

// The kinds of checks. Empty: none, and all instances count as healthy.
const (
	// CheckHTTP is healthy if GET is answered with a status from 200 to 399. The body is not read.
	CheckHTTP CheckKind = "http"
	// CheckGRPC is healthy if grpc.health.v1.Health/Check answers SERVING. It goes over HTTP/2 for every scheme.
	CheckGRPC CheckKind = "grpc"
	// CheckTCP is healthy if a connection can be made; for https with its TLS handshake.
	CheckTCP CheckKind = "tcp"
)

// Check says how the instances of a target are asked for their health. The zero value: they are not asked. It is
// comparable; [Check.Complete] makes checks with the same meaning equal.
type Check struct {
	Kind CheckKind
	// Path is the path, with or without a query, for CheckHTTP. Empty: "/".
	Path string
	// Host is the Host header of CheckHTTP and the :authority of CheckGRPC. Empty: [Target.Host].
	Host string
	// Service is the name for CheckGRPC. Empty: the server as a whole.
	Service string
	// Interval is the time between the end of a check and the next one, plus or minus a tenth. Zero: 5 s.
	Interval time.Duration
	// Timeout is how long a check may take. Zero: 2 s.
	Timeout time.Duration
	// Healthy is how many checks in a row must succeed until an unhealthy instance is healthy. Zero: 2.
	Healthy int
	// Unhealthy is how many checks in a row must fail until a healthy instance is unhealthy. Zero: 3.
	Unhealthy int
}

// Limits of a check.
const (
	minInterval  = 100 * time.Millisecond
	maxInterval  = time.Hour
	maxTimeout   = time.Minute
	maxThreshold = 100
	maxHead      = 16 << 10 // bytes of the header of a response
	maxMessage   = 1 << 10  // bytes of the message of a gRPC response
	maxProblem   = 200      // bytes of the text of an error, of which the instance may decide a part
)

// Complete returns a copy with all defaults, or an error of kind errs.Invalid whose fields have the names of the fields
// of Check with a small first letter.
func (c Check) Complete() (Check, error) {
	var bad errs.Violations
	switch c.Kind {
	case CheckHTTP, CheckGRPC, CheckTCP:
	default:
		if c == (Check{}) {
			return c, nil
		}
		bad.Addf("kind", "must be http, grpc or tcp, is %q", c.Kind)
	}
	if _, err := url.ParseRequestURI(c.Path); c.Path != "" && (err != nil || c.Path[0] != '/' ||
		strings.Contains(c.Path, "#") || text.CheckLine(c.Path, 1024) != nil) {
		bad.Addf("path", "must be a path that begins with / and has no fragment, at most 1024 bytes, is %.80q", c.Path)
	}
	if c.Path != "" && c.Kind != CheckHTTP {
		bad.Add("path", "must be empty unless kind is http")
	}
	if c.Host != "" && (!httpguts.ValidHostHeader(c.Host) || len(c.Host) > maxName+6) {
		bad.Addf("host", "must be a host name, with or without a port, is %.80q", c.Host)
	}
	if c.Host != "" && c.Kind == CheckTCP {
		bad.Add("host", "must be empty if kind is tcp")
	}
	if err := text.CheckLine(c.Service, 256); err != nil {
		bad.Addf("service", "%v", err)
	}
	if c.Service != "" && c.Kind != CheckGRPC {
		bad.Add("service", "must be empty unless kind is grpc")
	}
	if c.Interval != 0 && (c.Interval < minInterval || c.Interval > maxInterval) {
		bad.Addf("interval", "must be from %v to %v, is %v", minInterval, maxInterval, c.Interval)
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		bad.Addf("timeout", "must be above 0 and at most %v, is %v", maxTimeout, c.Timeout)
	}
	if c.Healthy < 0 || c.Healthy > maxThreshold {
		bad.Addf("healthy", "must be from 1 to %d, is %d", maxThreshold, c.Healthy)
	}
	if c.Unhealthy < 0 || c.Unhealthy > maxThreshold {
		bad.Addf("unhealthy", "must be from 1 to %d, is %d", maxThreshold, c.Unhealthy)
	}
	return c.withDefaults(), bad.Err("checking a health check")
}

// withDefaults also replaces what Complete refuses, so that no check is made without a pause.
func (c Check) withDefaults() Check {
	if c.Kind == CheckHTTP && c.Path == "" {
		c.Path = "/"
	}
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Healthy <= 0 {
		c.Healthy = 2
	}
	if c.Unhealthy <= 0 {
		c.Unhealthy = 3
	}
	return c
}

// checker asks the instances of one target.
type checker struct {
	set    *Set
	target Target
	Check
}

// run asks an instance until ctx ends and reports each outcome. The first check comes after a random part of the
// interval, so that many instances that were found at the same moment are not asked at the same moment. A check that
// does not end in time is given up before the next one, so an instance has at most one.
func (c *checker) run(ctx context.Context, addr string, report func(error)) {
	for wait := pace.Jitter(c.Interval/2, 1); pace.Sleep(ctx, wait); wait = pace.Jitter(c.Interval, 0.1) {
		err := c.ask(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		report(err)
	}
}

// ask makes one check.
func (c *checker) ask(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	protocol := HTTP1
	if c.Kind == CheckGRPC {
		protocol = HTTP2
	}
	// The connection is made here and closed here. http.Transport and grpc.ClientConn make connections that may outlive
	// the check.
	conn, err := c.set.Dial(ctx, c.target, addr, protocol)
	if err != nil {
		return err
	}
	defer conn.Close()
	switch c.Kind {
	case CheckHTTP:
		return c.askHTTP(ctx, conn)
	case CheckGRPC:
		return c.askGRPC(ctx, conn)
	case CheckTCP:
		return nil
	}
	return fmt.Errorf("there is no check of kind %q", c.Kind)
}

func (c *checker) host() string {
	if c.Host != "" {
		return c.Host
	}
	return c.target.Host()
}

func (c *checker) askHTTP(ctx context.Context, conn net.Conn) error {
	dial := once(conn)
	t := &http.Transport{
		DialContext: dial, DialTLSContext: dial, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxHead, Protocols: new(http.Protocols),
	}
	defer t.CloseIdleConnections()
	t.Protocols.SetHTTP1(!c.target.H2C())
	t.Protocols.SetUnencryptedHTTP2(c.target.H2C())
	scheme := "http"
	if _, ok := conn.(*tls.Conn); ok {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+c.target.Host()+c.Path, nil)
	if err != nil {
		return err
	}
	req.Host = c.host()
	req.Header.Set("User-Agent", "bijou-health-check")
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close() // the status is known
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("GET %s was answered with status %d", c.Path, res.StatusCode)
	}
	return nil
}

func (c *checker) askGRPC(ctx context.Context, conn net.Conn) error {
	dial := once(conn)
	creds := insecure.NewCredentials()
	if c.target.TLS() {
		creds = overTLS{creds}
	}
	cc, err := grpc.NewClient("passthrough:///"+c.target.Host(),
		grpc.WithTransportCredentials(creds), grpc.WithAuthority(c.host()), grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithUserAgent("bijou-health-check"),
		grpc.WithMaxHeaderListSize(maxHead), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }))
	if err != nil {
		return err
	}
	defer cc.Close()
	res, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: c.Service})
	if err != nil {
		return err
	}
	if s := res.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the service %q is %s", c.Service, s)
	}
	return nil
}

// once returns a function that gives conn to its first caller.
func once(conn net.Conn) func(ctx context.Context, network, addr string) (net.Conn, error) {
	var used atomic.Bool
	return func(context.Context, string, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, errSecond
		}
		return conn, nil
	}
}

var errSecond = errors.New("the instance closed the connection of the check")

// overTLS are credentials for a connection that has TLS already: requests have the scheme https.
type overTLS struct {
	credentials.TransportCredentials
}

// Info says that the connection has TLS.
func (overTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns a copy.
func (o overTLS) Clone() credentials.TransportCredentials {
	return overTLS{o.TransportCredentials.Clone()}
}
