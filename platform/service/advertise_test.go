package service_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"bijou.dev/platform/memnet"
)

// lookupLocalhost is a resolver that knows one name.
func lookupLocalhost(_ context.Context, host string) ([]string, error) {
	if host == "localhost" {
		return []string{"127.0.0.1"}, nil
	}
	return nil, errors.New("no such host")
}

func TestAdvertisedNames(t *testing.T) {
	for advertise, want := range map[string]string{
		"":                "alone-1:8080",
		"192.0.2.1":       "192.0.2.1:8080",
		"nobody.invalid":  "nobody.invalid:8080",
		"localhost":       "127.0.0.1:8080", // stands for an address of this machine
		"127.0.0.0/8":     "127.0.0.1:8080", // a network that this machine is in
		"198.51.100.0/24": "alone-1:8080",   // one that it is not in
	} {
		var log bytes.Buffer
		n := memnet.New()
		o := standalone(n, "alone-1")
		o.Net.LookupHost = lookupLocalhost
		o.Advertise, o.Log = advertise, slog.New(slog.NewJSONHandler(&log, nil))
		_, stop := run(t, o, greet)
		if resp, err := client(n).Get("http://alone-1:9090/healthz"); err != nil {
			t.Fatal(err)
		} else {
			resp.Body.Close()
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), `"http":"`+want+`"`) {
			t.Errorf("advertising %q: want http at %s\n%s", advertise, want, &log)
		}
	}
}

// The machine's resolver knows nothing about the names of another network. In a synctest bubble a look-up even stops
// the whole test process, because package net keeps its state for all bubbles.
func TestNamesOfAnotherNetworkAreNotLookedUp(t *testing.T) {
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			o := standalone(memnet.New(), "alone-1")
			o.Advertise = "localhost"
			var log bytes.Buffer
			o.Log = slog.New(slog.NewJSONHandler(&log, nil))
			_, stop := run(t, o, greet)
			synctest.Wait()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if want := `"http":"localhost:8080"`; !strings.Contains(log.String(), want) {
				t.Errorf("the log does not contain %s:\n%s", want, &log)
			}
		})
	}
}
