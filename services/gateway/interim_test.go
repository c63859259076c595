package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const toWebInBothWays = `[{"name":"h1","match":{"prefix":"/h1"},"to":[{"service":"web"}]},
	{"name":"h2","match":{"prefix":"/h2"},"to":[{"service":"web","endpoint":"grpc"}]}]`

// ways are requests that go to the origin in each way that the edge has: by HTTP/1.1 and HTTP/2, without a body and
// with one that is passed on as it comes.
var ways = []struct{ name, method, path, body string }{
	{"repeatable", http.MethodGet, "/h1", ""},
	{"not repeatable", http.MethodPost, "/h1", ""},
	{"upload", http.MethodPost, "/h1", "abc"},
	{"HTTP/2", http.MethodGet, "/h2", ""},
	{"HTTP/2 upload", http.MethodPost, "/h2", "abc"},
}

// stream hides the length of a body, so that it is passed on as it comes.
func stream(body string) io.Reader {
	if body == "" {
		return nil
	}
	return struct{ io.Reader }{strings.NewReader(body)}
}

// RFC 9110, 15.2: interim answers pass, less what is not for the client.
func TestInterimAnswersPass(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Link"] = []string{"</a>; rel=preload", "</b>; rel=preload"}
		rw.Header().Set("X-Bijou-Fault", "gateway")
		rw.Header().Set("Keep-Alive", "5")
		rw.Header().Set("X-Request-Id", "of-the-origin")
		rw.WriteHeader(http.StatusContinue) // nobody has asked the origin for it
		rw.WriteHeader(http.StatusEarlyHints)
		clear(rw.Header())
		rw.WriteHeader(http.StatusProcessing)
		rw.Header().Set("X-Last", "1")
		_, _ = io.WriteString(rw, "ok")
	}))
	for _, h2 := range []bool{false, true} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("by %s, client of HTTP/2 %v", way.name, h2), func(t *testing.T) {
				var got []string
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
						got = append(got, fmt.Sprint(code, " ", header))
						return nil
					},
				})
				req, err := http.NewRequestWithContext(ctx, way.method, "http://x"+way.path, stream(way.body))
				if err != nil {
					t.Fatal(err)
				}
				res, err := w.client(h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				want := []string{"103 map[Link:[</a>; rel=preload </b>; rel=preload]]", "102 map[]"}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("interim answers (-want +got):\n%s", diff)
				}
				if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || string(text) != "ok" ||
					res.Header.Get("Link") != "" || res.Header.Get("X-Last") != "1" {
					t.Errorf("then the answer %d %v %q, %v; want 200 with the header X-Last and without Link", res.StatusCode,
						res.Header, text, err)
				}
			})
		}
	}
}

// RFC 9110, 15.2: HTTP/1.0 has no interim answers.
func TestNoInterimAnswerToHTTP10(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(rw, "ok")
	}))
	for _, method := range []string{"GET", "POST"} {
		if got, _ := w.raw(method + " / HTTP/1.0\r\nHost: x\r\n\r\n"); !cmp.Equal(got, []int{200}) {
			t.Errorf("%s: statuses %v, want 200 only", method, got)
		}
	}
}

// RFC 9110, 10.1.1: the edge answers Expect, once. Interim answers of the origin may come at the same time as the body.
func TestExpectIsAnsweredOnceBesideInterimAnswers(t *testing.T) {
	for _, path := range []string{"/h1", "/h2"} {
		for _, framing := range []string{"Content-Length: 70000", "Transfer-Encoding: chunked"} {
			t.Run(path+" "+framing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, toWebInBothWays)
					w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						if r.Header.Get("Expect") != "" {
							t.Error("the origin got Expect, which the edge has answered")
						}
						rw.WriteHeader(http.StatusEarlyHints)
						_, _ = io.Copy(io.Discard, r.Body)
						rw.WriteHeader(http.StatusEarlyHints)
						_, _ = io.WriteString(rw, "ok")
					}))
					c := w.dial()
					_, _ = io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"+framing+"\r\n\r\n")
					r := bufio.NewReader(c)
					var got []int
					for len(got) == 0 || got[len(got)-1] < 200 {
						res, err := http.ReadResponse(r, nil)
						if err != nil {
							t.Fatalf("after the statuses %v: %v", got, err)
						}
						got = append(got, res.StatusCode)
						if len(got) == 2 { // 100 and 103 have come, now the client sends the body
							body := strings.Repeat("x", 70000)
							if framing == "Transfer-Encoding: chunked" {
								body = "11170\r\n" + body + "\r\n0\r\n\r\n"
							}
							_, _ = io.WriteString(c, body)
						}
					}
					if !cmp.Equal(got, []int{100, 103, 103, 200}) {
						t.Errorf("statuses %v, want 100, 103, 103, 200", got)
					}
				})
			})
		}
	}
}

// An origin cannot keep a request busy with interim answers.
func TestInterimAnswersAreBounded(t *testing.T) {
	for _, way := range ways {
		for _, c := range []struct {
			header string
			n      int
			want   int
		}{{"", 8, 200}, {"", 9, 502}, {strings.Repeat("x", 50<<10), 8, 502}} {
			if c.header != "" && (way.name != "repeatable" && way.name != "upload") {
				continue // the limit is for each header
			}
			w := newWorld(t, toWebInBothWays)
			w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("X-Large", c.header)
				for range c.n {
					rw.WriteHeader(http.StatusEarlyHints)
				}
				rw.Header().Del("X-Large")
			}))
			res := w.do(w.client(false), way.method, "http://x"+way.path, stream(way.body))
			if res.StatusCode != c.want {
				t.Errorf("%s: status %d after %d interim answers with a header of %d bytes, want %d", way.name,
					res.StatusCode, c.n, len(c.header), c.want)
			}
		}
	}
}

// A client that leaves while interim answers come ends the request and nothing else.
func TestClientLeavesDuringInterimAnswers(t *testing.T) {
	for _, way := range ways {
		for _, h2 := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWebInBothWays)
				w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that its client leaves
					for range 5 {
						rw.WriteHeader(http.StatusEarlyHints)
					}
					<-r.Context().Done()
				}))
				ctx, cancel := context.WithCancel(t.Context())
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
					Got1xxResponse: func(int, textproto.MIMEHeader) error {
						cancel()
						return nil
					},
				})
				req, err := http.NewRequestWithContext(ctx, way.method, "http://x"+way.path, stream(way.body))
				if err != nil {
					t.Fatal(err)
				}
				if res, err := w.client(h2).Do(req); err == nil {
					res.Body.Close()
					t.Errorf("%s: the request ended with %d, want an error", way.name, res.StatusCode)
				}
				time.Sleep(time.Second) // a client is watched after a while
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%s: %v requests are in progress, want none", way.name, n)
				}
				if strings.Contains(w.log.String(), "a defect of the edge") {
					t.Errorf("%s: the log has a panic: %s", way.name, w.log.String())
				}
			})
		}
	}
}

// RFC 9110, 15: a status that is none gives 502.
func TestInvalidStatusOfTheOrigin(t *testing.T) {
	for _, status := range []string{"000", "099"} {
		for _, way := range ways[:3] {
			w := newWorld(t, toWebInBothWays)
			w.script("web", "web-1", "HTTP/1.1 "+status+" None\r\nContent-Length: 0\r\n\r\n")
			if res := w.do(w.client(false), way.method, "http://x"+way.path, stream(way.body)); res.StatusCode != 502 {
				t.Errorf("%s, status %s: the client got %d, want 502", way.name, status, res.StatusCode)
			}
		}
	}
}
