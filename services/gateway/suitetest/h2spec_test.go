package suitetest

import (
	"encoding/xml"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// h2specFails are the cases of h2spec that the edge does not pass, with the reason.
var h2specFails = map[string]string{
	h2specPreface: "the port speaks HTTP/1.1, too: bytes that begin no connection of HTTP/2 are a request of HTTP/1.1, " +
		"and get 400. Over TLS the client has chosen HTTP/2, so there the case passes",
	h2specHeader + "connection-specific header field":                     malformed,
	h2specHeader + `TE header field with any value other than "trailers"`: malformed,
}

const (
	h2specPreface = "http2/3.5: Sends invalid connection preface"
	h2specHeader  = "http2/8.1.2.2: Sends a HEADERS frame that contains the "
	malformed     = "400 is sent before the stream ends, which RFC 9113, 8.1.1, allows; h2spec wants a reset"
)

func TestH2spec(t *testing.T) {
	path := program(t, "h2spec")
	origin := newOrigin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the client may have left
		_, _ = io.WriteString(w, "hello, world")
	}))
	e := newEdge(t, `[{"name":"web","to":[{"url":"http://`+origin+`"}]}]`, newCertificate(t, newKey(t)))
	for name, addr := range map[string]string{"without TLS": e.plain, "with TLS": e.secure} {
		t.Run(name, func(t *testing.T) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			report := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"-h", "127.0.0.1", "-p", port, "-j", report, "-S"}
			if addr == e.secure {
				args = append(args, "-t", "-k")
			}
			out, err := run(t, exec.CommandContext(t.Context(), path, args...))
			passed, failed := readH2spec(t, report, out, err)
			for name, how := range failed {
				if h2specFails[name] == "" {
					t.Errorf("%s: %s", name, how)
				}
			}
			for name, reason := range h2specFails {
				passes := name == h2specPreface && addr == e.secure
				if !passes && slices.Contains(passed, name) {
					t.Errorf("%s passes now; take it out of h2specFails (%s)", name, reason)
				} else if !passes && failed[name] == "" {
					t.Errorf("%s was not run", name)
				}
			}
			if len(passed) < 142 {
				t.Errorf("%d cases passed, want at least 142 of 146", len(passed))
			}
			t.Logf("%d cases passed, %d failed: %v", len(passed), len(failed), slices.Collect(maps.Keys(failed)))
		})
	}
}

// readH2spec returns the names of the cases that passed, and those that failed with what was wrong.
func readH2spec(t *testing.T, report, out string, ended error) (passed []string, failed map[string]string) {
	t.Helper()
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec wrote no report (%v), it ended with %v and wrote:\n%s", err, ended, out)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
				Skipped *string `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatal(err)
	}
	failed = map[string]string{}
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			name := c.Package + ": " + c.Name
			switch {
			case c.Failure != nil:
				failed[name] = *c.Failure
			case c.Error != nil:
				failed[name] = *c.Error
			case c.Skipped != nil:
				failed[name] = "skipped: " + *c.Skipped
			default:
				passed = append(passed, name)
			}
		}
	}
	return passed, failed
}
