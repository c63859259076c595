package console_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/services/console"
)

func TestWithoutBackendsEveryPartSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		next := w.events(t)
		var hello struct{ ReadOnly, Built bool }
		if next("hello", &hello); hello.ReadOnly || !hello.Built {
			t.Errorf("hello has readOnly %t, built %t; want false and true", hello.ReadOnly, hello.Built)
		}
		// The states of the two stores come from the registry and from config.
		want := map[string]func(part) bool{
			"registry": failed, "circuits": failed, "settings": failed, "edge": failed,
			"registryStore": unknown, "settingsStore": unknown,
		}
		parts := await(t, next, "parts", func(parts map[string]part) bool { return len(parts) == len(want) })
		for name, is := range want {
			if p := parts[name]; !is(p) || p.Problem == "" {
				t.Errorf("without backends the part %s is %+v", name, p)
			}
			assertPlain(t, "the problem of "+name, parts[name].Problem)
		}
		for _, path := range []string{"/api/traces/services", "/api/state/circuits", "/api/state/settings"} {
			code, h, text := w.do(t, "GET", path, "")
			kind := h.Get("Content-Type")
			if code != http.StatusServiceUnavailable || kind != "application/problem+json" {
				t.Errorf("GET %s without backends: status %d, Content-Type %s, %s; want 503 and a problem",
					path, code, kind, text)
			}
		}
	})
}

func TestBackendsThatStartLaterAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		next := w.events(t)
		awaitPart(t, next, "registry", failed)
		w.board = &circuitsv1.WatchResponse{}
		w.runConfig(t)
		w.runCircuits(t)
		for _, name := range []string{"config", "circuits"} {
			w.register(name, name+"-1", map[string]string{"admin": name + ":9090"})
		}
		w.runGateway(t, "gateway", func() string { return "{}" }, http.NotFound)
		w.runRegistry(t)
		for _, name := range []string{
			"registry", "registryStore", "settings", "settingsStore", "circuits", "edge",
		} {
			awaitPart(t, w.events(t), name, ok)
		}
	})
}

func TestPartsRecoverWhenTheirServiceComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		w.board = &circuitsv1.WatchResponse{}
		for _, tt := range []struct {
			name string
			run  func(*testing.T) (stop func())
		}{{"registry", w.runRegistry}, {"settings", w.runConfig}, {"circuits", w.runCircuits}} {
			stop := tt.run(t)
			next := w.events(t)
			awaitPart(t, next, tt.name, ok)
			stop()
			p := awaitPart(t, next, tt.name, failed)
			if p.Problem == "" {
				t.Errorf("the part %s fails without a problem", tt.name)
			}
			assertPlain(t, "the problem of "+tt.name, p.Problem)
			tt.run(t)
			awaitPart(t, next, tt.name, ok)
		}
	})
}

func TestSettingsStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		next := w.events(t)
		awaitPart(t, next, "settingsStore", ok)
		w.set(func() { w.store = errRaw })
		p := awaitPart(t, next, "settingsStore", failed)
		if want := "the store (etcd) does not answer: waiting for the store"; p.Problem != want {
			t.Errorf("the problem of the store is %q, want %q", p.Problem, want)
		}
		w.set(func() { w.store = nil })
		awaitPart(t, next, "settingsStore", ok)
	})
}

func TestSettingsStoreIsUnknownWithoutConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		stop := w.runConfig(t)
		next := w.events(t)
		awaitPart(t, next, "settingsStore", ok)
		stop()
		stopped := time.Now()
		p := awaitPart(t, next, "settingsStore", unknown)
		if want := "no instance of the configuration service answers"; p.OK || p.Problem != want {
			t.Errorf("without config the store is ok %t, problem %q; want not ok and %q", p.OK, p.Problem, want)
		}
		if since := p.Since.Sub(stopped); since < 0 || since > 3*time.Second {
			t.Errorf("the state is unknown since %v after config stopped, want at most 3 s", since)
		}
		w.runConfig(t)
		awaitPart(t, next, "settingsStore", ok)
	})
}

func TestOneConfigInstanceThatCanWriteIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		w.runAdmin(t, "config-b", map[string]string{
			"/readyz": `{"checks":[{"name":"store","ok":false,"reason":"etcd is being moved"}]}`,
		})
		w.register("config", "config-b-1", map[string]string{"admin": "config-b:9090"})
		next := w.events(t)
		awaitPart(t, next, "settingsStore", ok)
		w.set(func() { w.store = errs.Errorf(errs.Unavailable, "disk full") })
		if p := awaitPart(t, next, "settingsStore", failed); p.Problem != "etcd is being moved" {
			t.Errorf("the problem is %q, want always the same of the two: %q", p.Problem, "etcd is being moved")
		}
	})
}

func TestRegistryStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		next := w.events(t)
		awaitPart(t, next, "registryStore", ok)
		w.set(func() { w.list.StoreProblem = errRaw.Error() })
		p := awaitPart(t, next, "registryStore", failed)
		assertPlain(t, "the problem of the registry's store", p.Problem)
		type fleet struct{ StoreProblem string }
		f := await(t, next, "fleet", func(f fleet) bool { return f.StoreProblem != "" })
		assertPlain(t, "storeProblem of the fleet", f.StoreProblem)
	})
}

func TestRegistryStoreIsUnknownWithoutTheRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		stop := w.runRegistry(t)
		next := w.events(t)
		awaitPart(t, next, "registryStore", ok)
		stop()
		if p := awaitPart(t, next, "registryStore", unknown); p.OK || p.Problem != "the registry does not answer" {
			t.Errorf("without the registry its store is %+v, want not ok, and the registry does not answer", p)
		}
		w.runRegistry(t)
		awaitPart(t, next, "registryStore", ok)
	})
}

func TestFirstTimeoutIsNotShown(t *testing.T) {
	for late, want := range []bool{true, true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, console.Options{})
			w.late = late
			w.runRegistry(t)
			next := w.events(t)
			start := time.Now()
			p := awaitPart(t, next, "registry", func(part) bool { return true })
			if p.OK != want {
				t.Errorf("after %d timeouts the registry has ok %t, want %t", late, p.OK, want)
			}
			if took := p.Since.Sub(start); !p.OK && took > 2*time.Second {
				t.Errorf("the registry fails since %v after the first request, want that of the first timeout", took)
			}
			if !p.OK {
				awaitPart(t, next, "registry", ok)
			}
		})
	}
}

func TestSinceIsTheTimeOfTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPlatform(t)
		next := w.events(t)
		awaitPart(t, next, "settings", ok)
		w.set(func() { w.statusErr = errs.ToStatus(t.Context(), errs.Errorf(errs.Internal, "a defect")).Err() })
		first := awaitPart(t, next, "settings", failed)
		time.Sleep(10 * time.Second)
		var parts map[string]part
		_, _, text := w.do(t, "GET", "/api/state/parts", "")
		decode(t, text, &parts)
		if p := parts["settings"]; p.OK || !p.Since.Equal(first.Since) {
			t.Errorf("10 s after the first failure the part is %+v, want since %v", p, first.Since)
		}
		if n := strings.Count(w.log.String(), "part=settings"); n != 1 {
			t.Errorf("the log has %d lines for one outage, want 1:\n%s", n, w.log)
		}
	})
}
