package console_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/services/console"
)

func TestBackendsAreAskedOnlyWhilePagesAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		listed := func() int { return locked(&w.backends, func() int { return w.listed }) }
		time.Sleep(time.Minute)
		if n := listed(); n != 0 {
			t.Errorf("without a page the registry was asked %d times in a minute", n)
		}
		if code, _, body := w.do(t, "GET", "/api/state/fleet", ""); code != http.StatusOK {
			t.Fatalf("GET /api/state/fleet: status %d, %s", code, body)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		asked := listed()
		if asked == 0 || asked > 15 {
			t.Errorf("after one request the registry was asked %d times, want once a second for ten seconds", asked)
		}
		time.Sleep(30 * time.Second)
		if n := listed(); n != asked {
			t.Errorf("a minute later the registry was asked %d times more", n-asked)
		}
	})
}

func TestStateAfterAnIdleTimeIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.register("web", "web-old", nil)
		instances := func() string {
			code, _, body := w.do(t, "GET", "/api/state/fleet", "")
			if code != http.StatusOK {
				t.Fatalf("GET /api/state/fleet: status %d, %s", code, body)
			}
			return body
		}
		instances() // the first answer may be older than that of the registry
		time.Sleep(3 * time.Second)
		if text := instances(); !strings.Contains(text, "web-old") {
			t.Errorf("the instance web-old is missing: %s", text)
		}
		time.Sleep(time.Minute)
		w.set(func() { w.list = &discoveryv1.ListResponse{} })
		w.register("web", "web-new", nil)
		if text := instances(); strings.Contains(text, "web-old") {
			t.Errorf("a minute later the first answer has an instance that has left the registry: %s", text)
		}
	})
}

func TestPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{MaxPages: 1})
		stream := w.openStream(t, "")
		code, _, body := w.do(t, "GET", "/api/stream", "")
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "-max-pages") {
			t.Errorf("a second page, where one is allowed: status %d, %s; want 503 that names -max-pages", code, body)
		}
		stream.Body.Close()
		synctest.Wait()
		w.openStream(t, "")
	})
}

func TestStreamOfAClientThatDoesNotReadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{MaxPages: 1})
		w.runRegistry(t)
		for i := range 1000 { // one event is more than the network buffers
			w.register("web", fmt.Sprintf("web-%d", i), map[string]string{"http": strings.Repeat("x", 200)})
		}
		w.openStream(t, "?topics=fleet")
		time.Sleep(time.Minute)
		code, _, body := w.do(t, "GET", "/api/stream?topics=weather", "")
		if code != http.StatusBadRequest {
			t.Errorf("an unknown topic: status %d, %s; want 400", code, body)
		}
		w.openStream(t, "") // it is refused while the other stream is open
	})
}

func TestStreamHasOnlyTheRequestedTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		stream := w.openStream(t, "?topics=fleet,parts")
		time.AfterFunc(10*time.Second, w.stopConsole)
		text, err := io.ReadAll(stream.Body)
		if err != nil {
			t.Fatalf("reading the stream to its end: %v", err)
		}
		for topic, want := range map[string]bool{
			"hello": true, "fleet": true, "parts": true, "traffic": false, "settings": false,
		} {
			if got := strings.Contains(string(text), "event: "+topic+"\n"); got != want {
				t.Errorf("with topics=fleet,parts the stream has the event %s: %t, want %t", topic, got, want)
			}
		}
	})
}

func TestStreamWithoutNewsSendsKeepAlives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		stream := w.openStream(t, "?topics=circuits")
		time.AfterFunc(31*time.Second, w.stopConsole)
		text, err := io.ReadAll(stream.Body)
		if err != nil {
			t.Fatalf("reading the stream to its end: %v", err)
		}
		if n := strings.Count(string(text), ": keep-alive\n\n"); n != 6 {
			t.Errorf("%d comments in 31 s, want one every 5 s:\n%s", n, text)
		}
	})
}

func TestStreamsEndWhenTheConsoleStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		stream := w.openStream(t, "")
		start := time.Now()
		time.AfterFunc(5*time.Second, w.stopConsole)
		if _, err := io.Copy(io.Discard, stream.Body); err != nil {
			t.Errorf("the stream ended with %v, want its regular end", err)
		}
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("the stream ended %v after the console began to stop, want at once", took-5*time.Second)
		}
	})
}
