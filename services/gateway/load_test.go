package gateway_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/load"
	"bijou.dev/services/gateway"
)

func TestLoadFromTheInternetIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := load.NewRecorder()
		w := worldWith(t, gateway.EdgeOptions{Served: served}, toWeb)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			var code int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
			time.Sleep(100 * time.Millisecond)
			rw.WriteHeader(code)
			_ = http.NewResponseController(rw).Flush()
			time.Sleep(time.Second) // the time of the body does not count
		}))
		for _, path := range []string{"/200", "/404", "/500"} {
			w.get("http://x" + path)
		}
		if err := w.set.Put("circuit.web.web.forceOpen", "true"); err != nil {
			t.Fatal(err)
		}
		w.get("http://x/200")
		time.Sleep(time.Second)
		report, _ := served.Proto()
		var l load.Load
		l.AddProto(report)
		if l.Calls != 4 || l.Failures != 1 || l.Rejected != 1 {
			t.Errorf("calls %d, failures %d, rejected %d; want 4, 1, 1", l.Calls, l.Failures, l.Rejected)
		}
		if p99, want := l.P99(), 100*time.Millisecond; (p99 - want).Abs() > want/8 {
			t.Errorf("p99 is %v, want about %v, the time until the header", p99, want)
		}
	})
}
