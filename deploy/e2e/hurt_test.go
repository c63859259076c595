package e2e

import (
	"syscall"
	"testing"
	"time"
)

// sufferer is a platform whose instances can be hurt in more ways than death. Not every runner can do everything.
type sufferer interface {
	pause(t testing.TB, instance string)
	resume(t testing.TB, instance string)
}

// wired is a platform that can hurt connections.
type wired interface {
	slow(t testing.TB, instance string, d time.Duration)
	resume(t testing.TB, instance string)
	reset(t testing.TB, instance string)
}

// each does the same to several instances.
func each(t testing.TB, do func(t testing.TB, instance string), instances ...string) {
	t.Helper()
	for _, i := range instances {
		do(t, i)
	}
}

func (p processes) signal(t testing.TB, instance string, sig syscall.Signal) {
	t.Helper()
	for _, i := range p.Instances() {
		if i.Name == instance && i.PID > 0 {
			if err := syscall.Kill(i.PID, sig); err != nil {
				t.Fatalf("signalling %s: %v", instance, err)
			}
			return
		}
	}
	t.Fatalf("there is no live %s", instance)
}

func (p processes) pause(t testing.TB, instance string)  { p.signal(t, instance, syscall.SIGSTOP) }
func (p processes) resume(t testing.TB, instance string) { p.signal(t, instance, syscall.SIGCONT) }
