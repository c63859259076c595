package tracing_test

import (
	"bufio"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"
)

// A sender that does not finish its request gets 408 within a minute, so that the memory for it is given back.
func TestSendersThatDoNotFinish(t *testing.T) {
	for port, head := range map[string]string{
		"9411": "POST /api/v2/spans HTTP/1.1\r\nContent-Type: application/json\r\n",
		"4318": "POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			n := memnet.New()
			start(t, n, "tracing", tracing.Options{})
			conn, err := n.DialContext(t.Context(), "tcp", "tracing:"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprint(conn, head+"Host: tracing\r\nContent-Length: 1000\r\n\r\n["); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_ = conn.SetReadDeadline(began.Add(10 * time.Minute))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("port %s: no answer after %v: %v", port, time.Since(began), err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusRequestTimeout || time.Since(began) > time.Minute {
				t.Errorf("port %s: status %d after %v, want 408 within a minute", port, resp.StatusCode, time.Since(began))
			}
		})
	}
}
