package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"

	"github.com/google/go-cmp/cmp"
)

func TestOverrideExpiresOnceOverReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 3)
		c := servers[0].Client(t)
		declare(t, c)
		instance := servers[1].Follow(t, id("catalog-1"))
		publish(t, c, set("search.limit", "30"))
		publish(t, c, override("search.limit", "50", 10*time.Minute), override("greeting", "hi", 20*time.Minute))
		synctest.Wait()
		if got := valueOf(t, servers[2].Client(t), id("1"), "search.limit"); got != "50" {
			t.Fatalf("the override is not in force: %q", got)
		}

		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if got := valueOf(t, servers[2].Client(t), id("1"), "search.limit"); got != "30" {
			t.Errorf("after its time the override still gives %q", got)
		}
		if got := valueOf(t, servers[2].Client(t), id("1"), "greeting"); got != "hi" {
			t.Errorf("the other override went too early: %q", got)
		}
		if instance.Revision() != 3 {
			t.Errorf("the instance was pushed revision %d, want 3", instance.Revision())
		}
		hist, err := c.History(t.Context(), &configv1.HistoryRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := revisions(hist); !cmp.Equal(got, []int64{3, 2, 1}) {
			t.Fatalf("history is %v, want one revision for the expiry", got)
		}
		r := hist.GetRevisions()[0]
		if r.GetAuthor() != "expiry" || len(r.GetChanges()) != 1 || r.GetChanges()[0].GetBefore() != "50" {
			t.Errorf("the expiry is recorded as %v, want one change from 50, by expiry", r)
		}

		// A rollback to the revision of the overrides restores the one that has not expired, with its end.
		publish(
			t, c, &configv1.Change{Name: "greeting", Scope: at(configv1.Layer_LAYER_OVERRIDE, "catalog", ""), Remove: true},
		)
		if _, err := c.Rollback(t.Context(), &configv1.RollbackRequest{To: 2, Author: "a", Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		if got := valueOf(t, c, id("1"), "search.limit"); got != "30" {
			t.Errorf("a rollback restored an override that has expired: %q", got)
		}
		if got := valueOf(t, c, id("1"), "greeting"); got != "hi" {
			t.Errorf("a rollback did not restore an override that has not expired: %q", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := valueOf(t, c, id("1"), "greeting"); got != "hello" {
			t.Errorf("the restored override does not end: %q", got)
		}
	})
}

// An override for ten minutes ends after ten minutes, also if nothing can be published then.
func TestOverrideExpiresWhileTheStoreIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, stores := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		instance := servers[0].Follow(t, id("catalog-1"))
		limit := settings.Int(instance, "search.limit", 20, settings.Spec{Min: "1", Max: "100"})
		time.Sleep(time.Second)
		publish(t, c, set("search.limit", "30"))
		publish(t, c, override("search.limit", "50", 10*time.Minute))
		time.Sleep(time.Second)
		if got := valueOf(t, c, id("catalog-1"), "search.limit"); got != "50" {
			t.Fatalf("the override is not in force: %q", got)
		}

		stores[0].Fail(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := valueOf(t, c, id("catalog-1"), "search.limit"); got != "30" {
			t.Errorf("after its time the override still gives %q", got)
		}
		if got := limit.Get(); got != 30 {
			t.Errorf("after its time the instance still uses %d", got)
		}
		why, err := c.Explain(t.Context(), &configv1.ExplainRequest{Name: "search.limit", Identity: id("catalog-1")})
		if err != nil || len(why.GetCandidates()) == 0 || why.GetCandidates()[0].GetValue().GetValue() != "30" {
			t.Errorf("the explanation is %v, %v, want 30 to win", why, err)
		}

		stores[0].Heal()
		time.Sleep(time.Minute)
		hist, err := c.History(t.Context(), &configv1.HistoryRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := revisions(hist); !cmp.Equal(got, []int64{3, 2, 1}) || hist.GetRevisions()[0].GetAuthor() != "expiry" {
			t.Errorf("history is %v, want one more revision, for the expiry: %v", got, hist.GetRevisions()[0])
		}
		if limit.Get() != 30 || instance.Revision() != 3 {
			t.Errorf("the instance uses %d of revision %d, want 30 of 3", limit.Get(), instance.Revision())
		}
	})
}

func TestBoundsOfTTL(t *testing.T) {
	c, _ := declared(t)
	const year = 366 * 24 * time.Hour
	for _, test := range []struct {
		ttl time.Duration
		ok  bool
	}{
		{time.Second - time.Nanosecond, false}, {time.Second, true}, {year, true}, {year + time.Nanosecond, false},
	} {
		_, err := c.Publish(t.Context(), change(override("search.limit", "50", test.ttl)))
		if test.ok != (err == nil) || !test.ok && errs.KindOf(err) != errs.Invalid {
			t.Errorf("an override for %v: error %v, want accepted %t", test.ttl, err, test.ok)
		}
	}
	removal := override("search.limit", "", time.Minute)
	removal.Remove = true
	_, err := c.Publish(t.Context(), change(removal))
	wantInvalid(t, err)
}

// More overrides than one publish may have expire at the same moment: they are removed in several revisions.
func TestManyOverridesExpireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := configtest.NewServer(t, &configtest.Options{Config: config.Options{MaxChanges: 2}})
		c := s.Client(t)
		declare(t, c)
		member := func(i int) string { return fmt.Sprintf("hystrix.command.c%d.circuitBreaker.forceOpen", i) }
		end := time.Now().Add(time.Hour)
		for i := range 5 {
			publish(t, c, override(member(i), "true", time.Until(end)))
		}
		time.Sleep(time.Until(end) + time.Minute)
		hist, err := c.History(t.Context(), &configv1.HistoryRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for _, r := range hist.GetRevisions() {
			if r.GetAuthor() == "expiry" {
				sizes = append(sizes, len(r.GetChanges()))
			}
		}
		if want := []int{1, 2, 2}; !cmp.Equal(sizes, want) {
			t.Errorf("revisions that removed expired overrides have %v changes, newest first; want %v", sizes, want)
		}
		for i := range 5 {
			if got := valueOf(t, c, id("1"), member(i)); got != "false" {
				t.Errorf("%s is %q after its time", member(i), got)
			}
		}
	})
}

// The log is not filled while the store is away.
func TestExpiryLogsTheFirstOfItsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kvmem.New()
		var log logBuffer
		s := configtest.NewServer(t, &configtest.Options{
			Config: config.Options{Store: store, Log: slog.New(slog.NewTextHandler(&log, nil))},
		})
		c := s.Client(t)
		declare(t, c)
		publish(t, c, override("search.limit", "50", time.Minute))
		store.Fail(errors.New("away"))
		time.Sleep(time.Hour)
		if n := log.count("cannot remove expired overrides"); n != 1 {
			t.Errorf("logged %d times in an hour, want once", n)
		}
		store.Heal()
		time.Sleep(time.Minute)
		if got := revisionOf(t, c); got != 2 {
			t.Errorf("the newest revision is %d a minute after the store is back, want the expiry, 2", got)
		}
		publish(t, c, override("search.limit", "60", time.Minute))
		store.Fail(errors.New("away"))
		time.Sleep(time.Hour)
		if n := log.count("cannot remove expired overrides"); n != 2 {
			t.Errorf("logged %d times after a second outage, want twice", n)
		}
	})
}

// logBuffer is a log that tests read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}
