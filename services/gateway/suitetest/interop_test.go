package suitetest

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"
)

// interopCases are those of interop_test.sh in grpc-go: all that need no credentials of Google's cloud.
// pick_first_unary needs several servers whose addresses the client knows, so the edge has no part in it.
var interopCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
	"special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service", "orca_per_rpc",
	"orca_oob", "rpc_soak", "channel_soak",
}

func TestGRPCInterop(t *testing.T) {
	server, client := program(t, "server"), program(t, "client")
	origin := startProgram(t, server, "-port")
	e := newEdge(t, `[{"name":"grpc","to":[{"url":"h2c://`+origin+`"}]}]`, newCertificate(t, newKey(t)))
	for name, addr := range map[string]string{"without TLS": e.plain, "with TLS": e.secure} {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{
			"-server_host", "127.0.0.1", "-server_port", port,
			// the client's balancer that keeps the reports of load for the two cases of ORCA
			"-service_config_json", `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`,
		}
		if addr == e.secure {
			args = append(args, "-use_tls", "-use_test_ca", "-ca_file", e.cert)
		}
		for _, c := range interopCases {
			t.Run(name+"/"+c, func(t *testing.T) {
				out, err := run(t, exec.CommandContext(t.Context(), client, append(args, "-test_case", c)...))
				if err != nil {
					t.Errorf("the client of %s ended with %v and wrote:\n%s", c, err, out)
				}
			})
		}
	}
}

// startProgram starts a server with a free port in the argument after flag, until the test ends, and returns its
// address. The port may be taken by somebody else meanwhile; then it tries another one.
func startProgram(t *testing.T, path, flag string) string {
	t.Helper()
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		c := exec.Command(path, flag, fmt.Sprint(port))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		t.Cleanup(func() {
			_ = c.Process.Kill() // it may have ended
			<-ended
		})
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if answers(t, addr, ended) {
			return addr
		}
	}
	t.Fatalf("starting %s: no port was free five times", path)
	return ""
}

// answers waits until a server accepts connections. False: its process has ended.
func answers(t *testing.T, addr string, ended chan error) bool {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return true
		}
		select {
		case err := <-ended:
			ended <- err
			return false
		case <-tick.C:
		}
	}
	t.Fatalf("connecting to %s: it accepts no connections after 10 s", addr)
	return false
}
