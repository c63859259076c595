package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// addressExample is a configuration of docs/api/client-address.md, with the setting of the edge that belongs to it.
type addressExample struct{ program, conf, setting, value string }

func addressExamples(t *testing.T) (list []addressExample) {
	t.Helper()
	page, err := os.ReadFile("../../docs/api/client-address.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```(nginx|haproxy)\n(.*?)```\n.*?config set (\\S+) ('[^']*'|\\S+)")
	for _, m := range block.FindAllSubmatch(page, -1) {
		value := strings.ReplaceAll(strings.Trim(string(m[4]), "'"), "10.0.0.9", "127.0.0.1")
		list = append(list, addressExample{string(m[1]), string(m[2]), string(m[3]), value})
	}
	if len(list) != 4 {
		t.Fatalf("there are %d examples for nginx and HAProxy, want 4", len(list))
	}
	return list
}

// start runs the example in front of an address.
func (e addressExample) start(t *testing.T, to string) (addr string) {
	t.Helper()
	conf := regexp.MustCompile(`10\.0\.0\.5:\d+`).ReplaceAllString(e.conf, "TO")
	if e.program == "haproxy" {
		conf = "defaults\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n" +
			regexp.MustCompile(`bind :\d+`).ReplaceAllString(conf, "bind LISTEN")
		return startProgram(t, []string{"haproxy", "-db", "-f", "CONF"}, conf, to)
	}
	conf = regexp.MustCompile(`listen \d+`).ReplaceAllString(conf, "listen LISTEN")
	if strings.HasPrefix(conf, "stream") {
		need(t, nginxStream)
		conf = "load_module " + nginxStream +
			";\ndaemon off; master_process off; pid DIR/pid; error_log stderr;\nevents {}\n" + conf
	} else {
		conf = nginxConf + conf + "}\n"
	}
	return startProgram(t, nginx, conf, to)
}

// forged are fields by which a client claims to be another one.
var forged = []string{
	"X-Forwarded-For", "192.0.2.66", "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "gopher", "X-Real-Ip",
	"192.0.2.66", "Forwarded", "for=192.0.2.66;host=evil.example;proto=https", "True-Client-Ip", "192.0.2.66",
	"X-Forwarded-Port", "1", "Cf-Connecting-Ip", "192.0.2.66",
}

// seen answers with what an origin knows about the client.
func seen(rw http.ResponseWriter, r *http.Request) {
	own := []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}
	for _, name := range own {
		_, _ = fmt.Fprintln(rw, strings.Join(r.Header[name], " and ")) // a client that left fails the test itself
		r.Header.Del(name)
	}
	for i := 0; i < len(forged); i += 2 {
		if r.Header.Get(forged[i]) != "" {
			_, _ = io.WriteString(rw, forged[i]+" is there\n")
		}
	}
}

// Each example runs in front of the edge, and a client cannot forge its address.
func TestExamplesOfClientAddresses(t *testing.T) {
	for _, e := range addressExamples(t) {
		overTCP := e.setting == "gateway.proxyProtocol"
		t.Run(fmt.Sprintf("%s, %s", e.program, e.setting), func(t *testing.T) {
			p := newProxied(t, "gateway.proxyProtocol", "{}", e.setting, e.value)
			p.origin("web", "web-2", "", http.HandlerFunc(seen))
			p.disc.Put("web", p.instances["web"][1:]) // only the second
			scheme, to, chain := "http", p.http, "127.0.0.9, 127.0.0.1"
			if overTCP {
				scheme, to, chain = "https", p.https, "127.0.0.9"
			}
			addr := e.start(t, to)
			for name, header := range map[string][]string{"plain": nil, "forged": forged} {
				res, err := p.ask(scheme, "127.0.0.9", addr, "", false, header...)
				want := fmt.Sprintf("%s\n%s\nwww.example.org\n", chain, scheme)
				if err != nil || res.body != want {
					t.Errorf("%s: the origin saw %q, %v; want %q", name, res.body, err, want)
				}
			}
			if log := p.log.String(); strings.Count(log, `"client":"127.0.0.9"`) != 2 {
				t.Errorf("the access log does not have the client 127.0.0.9 twice:\n%s", log)
			}
		})
	}
}

// The last example of the page with two proxies that speak HTTP.
func TestChainOfTwoProxies(t *testing.T) {
	list := addressExamples(t)
	p := newProxied(t, "gateway.proxyProtocol", "{}", "gateway.trustedHops", "2")
	p.origin("web", "web-2", "", http.HandlerFunc(seen))
	p.disc.Put("web", p.instances["web"][1:])
	addr := list[2].start(t, list[0].start(t, p.http)) // HAProxy, nginx, edge
	res, err := p.ask("http", "127.0.0.9", addr, "", false, forged...)
	if want := "127.0.0.9, 127.0.0.1, 127.0.0.1\nhttp\nwww.example.org\n"; err != nil || res.body != want {
		t.Errorf("the origin saw %q, %v; want %q", res.body, err, want)
	}
}

// A proxy may add a line or a word behind those of the client.
func TestTheNearestProxyCountsForSchemeAndHost(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.trustedHops", "1")
	w.origin("web", "web-1", "", http.HandlerFunc(seen))
	for name, header := range map[string][]string{
		"lines": {
			"X-Forwarded-Proto", "https", "X-Forwarded-Proto", "http", "X-Forwarded-Host", "evil.example",
			"X-Forwarded-Host", "good.example",
		},
		"words": {"X-Forwarded-Proto", "https, http", "X-Forwarded-Host", "evil.example, good.example"},
	} {
		if got, want := w.get("http://x/", header...).body, "client\nhttp\ngood.example\n"; got != want {
			t.Errorf("%s: the origin saw %q, want %q", name, got, want)
		}
	}
}
