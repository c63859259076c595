package config_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"

	"bijou.dev/platform/names"
	"bijou.dev/platform/names/namestest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestLaterLayersWin(t *testing.T) {
	c, _ := declared(t)
	me, other := id("catalog-1"), &configv1.Identity{App: "search", Instance: "s-1", Zone: "eu-2"}
	if got := valueOf(t, c, me, "greeting"); got != "hello" {
		t.Fatalf("default: got %q", got)
	}
	scopes := []*configv1.Scope{ // each wins over the ones before it
		forApp(""), forApp("catalog"),
		at(configv1.Layer_LAYER_ENVIRONMENT, "", "prod"), at(configv1.Layer_LAYER_ENVIRONMENT, "catalog", "prod"),
		at(configv1.Layer_LAYER_REGION, "", "eu"), at(configv1.Layer_LAYER_REGION, "catalog", "eu"),
		at(configv1.Layer_LAYER_ZONE, "", "eu-1"), at(configv1.Layer_LAYER_ZONE, "catalog", "eu-1"),
		at(configv1.Layer_LAYER_VERSION, "catalog", "v2"), at(configv1.Layer_LAYER_INSTANCE, "catalog", "catalog-1"),
		at(configv1.Layer_LAYER_OVERRIDE, "", ""), at(configv1.Layer_LAYER_OVERRIDE, "catalog", ""),
	}
	for i, scope := range scopes {
		value := fmt.Sprintf("greeting %d", i)
		publish(t, c, &configv1.Change{Name: "greeting", Scope: scope, Value: value})
		if got := valueOf(t, c, me, "greeting"); got != value {
			t.Fatalf("after %v: got %q, want %q", scope, got, value)
		}
		ex, err := c.Explain(t.Context(), &configv1.ExplainRequest{Name: "greeting", Identity: me})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(ex.GetCandidates()); n != i+2 {
			t.Fatalf("after %d values explain has %d candidates", i+1, n)
		}
		for j, cand := range ex.GetCandidates() {
			if cand.GetWins() != (j == 0) {
				t.Errorf("candidate %d: wins is %t", j, cand.GetWins())
			}
		}
		first, last := ex.GetCandidates()[0], ex.GetCandidates()[i+1]
		if first.GetValue().GetValue() != value || first.GetTime() == nil ||
			first.GetAuthor() != "ann" || first.GetReason() != "test" {
			t.Errorf("winner is %v", first)
		}
		if last.GetValue().GetLayer() != configv1.Layer_LAYER_DEFAULT || last.GetValue().GetValue() != "hello" {
			t.Errorf("the last candidate is not the default: %v", last)
		}
	}
	if got := valueOf(t, c, other, "greeting"); got != "greeting 10" {
		t.Errorf("an instance elsewhere sees %q, want the override for every app", got)
	}
}

func TestRefusalsChangeNothing(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("search.limit", "30"))
	ttl := func(c *configv1.Change, d time.Duration) *configv1.Change { c.Ttl = durationpb.New(d); return c }
	scoped := func(layer configv1.Layer, app, selector string) *configv1.Change {
		return &configv1.Change{Name: "search.limit", Scope: at(layer, app, selector), Value: "40"}
	}
	many := make([]*configv1.Change, 101)
	for i := range many {
		many[i] = &configv1.Change{
			Name: "search.limit", Scope: at(configv1.Layer_LAYER_INSTANCE, "catalog", fmt.Sprint(i)), Value: "40",
		}
	}
	large := make([]*configv1.Change, 6)
	for i := range large {
		large[i] = &configv1.Change{
			Name: "greeting", Scope: at(configv1.Layer_LAYER_INSTANCE, "catalog", fmt.Sprint(i)),
			Value: strings.Repeat("x", 250<<10),
		}
	}
	for name, test := range map[string]struct {
		req   *configv1.PublishRequest
		field string
		text  string
	}{
		"unknown name": {change(set("search.limits", "1")), "changes[0].name", "did you mean search.limit?"},
		"unknown member of family": {
			change(set("hystrix.command.a.b.circuitBreaker.forceopen", "true")), "changes[0].name",
			"did you mean hystrix.command.a.b.circuitBreaker.forceOpen?",
		},
		"unknown app": {
			change(&configv1.Change{Name: "greeting", Scope: forApp("catalogue"), Value: "x"}), "changes[0].name",
			"did you mean catalog?",
		},
		"unknown everywhere": {
			change(&configv1.Change{Name: "nothing.like.it", Scope: forApp(""), Value: "x"}), "changes[0].name",
			"not declared by any app",
		},
		"empty name":        {change(set("", "1")), "changes[0].name", "must have 1 to 256 bytes"},
		"name with a slash": {change(set("a/b", "1")), "changes[0].name", "'/'"},
		"pattern": {
			change(set("hystrix.command.*.circuitBreaker.forceOpen", "true")), "changes[0].name", "pattern",
		},
		"wrong int":               {change(set("search.limit", "many")), "changes[0].value", "whole number"},
		"wrong bool":              {change(set("enabled", "1")), "changes[0].value", "true or false"},
		"wrong float":             {change(set("ratio", "NaN")), "changes[0].value", "finite number"},
		"wrong duration":          {change(set("search.timeout", "5")), "changes[0].value", "duration"},
		"wrong option":            {change(set("search.mode", "slow")), "changes[0].value", "one of fast, exact"},
		"wrong JSON":              {change(set("routes", "[")), "changes[0].value", "must be JSON"},
		"a key twice":             {change(set("labels", `{"a":1,"a":2}`)), "changes[0].value", "given twice"},
		"JSON against the schema": {change(set("routes", `[1]`)), "changes[0].value", "schema"},
		"below the bound":         {change(set("search.limit", "0")), "changes[0].value", "must be at least 1, is 0"},
		"above the bound":         {change(set("search.limit", "101")), "changes[0].value", "must be at most 100, is 101"},
		"above, for every app": {
			change(&configv1.Change{Name: "search.limit", Scope: forApp(""), Value: "101"}), "changes[0].value",
			"declared by catalog",
		},
		"value too large": {
			change(set("greeting", strings.Repeat("x", 256<<10+1))), "changes[0].value", "at most 262144 bytes",
		},
		"batch too large":  {change(large...), "changes", "split"},
		"too many changes": {change(many...), "changes", "must be 1 to 100, are 101"},
		"empty batch":      {change(), "changes", "must be 1 to 100, are 0"},
		"no author": {
			&configv1.PublishRequest{Changes: []*configv1.Change{set("search.limit", "40")}, Reason: "r"}, "author",
			"must not be empty",
		},
		"blank reason": {
			&configv1.PublishRequest{Changes: []*configv1.Change{set("search.limit", "40")}, Author: "a", Reason: "  "},
			"reason", "must not be empty",
		},
		"same name and scope": {
			change(set("search.limit", "40"), set("search.limit", "41")), "changes[1].name", "changes[0]",
		},
		"second of two": {change(set("search.limit", "40"), set("ratio", "2")), "changes[1].value", "at most 1"},
		"default layer": {
			change(scoped(configv1.Layer_LAYER_DEFAULT, "catalog", "")), "changes[0].scope.layer", "default",
		},
		"no scope": {
			change(&configv1.Change{Name: "search.limit", Value: "40"}), "changes[0].scope.layer", "LAYER_APP",
		},
		"unknown layer": {change(scoped(99, "catalog", "")), "changes[0].scope.layer", "LAYER_APP"},
		"selector missing": {
			change(scoped(configv1.Layer_LAYER_ZONE, "catalog", "")), "changes[0].scope.selector", "which zone",
		},
		"selector superfluous": {
			change(scoped(configv1.Layer_LAYER_OVERRIDE, "catalog", "x")), "changes[0].scope.selector", "must be empty",
		},
		"selector too long": {
			change(scoped(configv1.Layer_LAYER_ZONE, "catalog", strings.Repeat("z", 129))), "changes[0].scope.selector", "128",
		},
		"bad app": {
			change(scoped(configv1.Layer_LAYER_APP, "cat/alog", "")), "changes[0].scope.app", "lower-case letters",
		},
		"ttl of a layer": {
			change(ttl(set("search.limit", "40"), time.Minute)), "changes[0].ttl", "only an override",
		},
		"ttl too short": {change(override("search.limit", "40", time.Millisecond)), "changes[0].ttl", "1s"},
		"ttl negative":  {change(override("search.limit", "40", -time.Minute)), "changes[0].ttl", "1s"},
		"removed and set": {
			change(&configv1.Change{Name: "search.limit", Scope: forApp("catalog"), Value: "1", Remove: true}),
			"changes[0].value", "must be empty",
		},
		"removing nothing": {change(remove("greeting")), "changes[0].name", "no value at this scope"},
		"expected in the future": {
			&configv1.PublishRequest{
				Changes: []*configv1.Change{set("search.limit", "40")}, Author: "a", Reason: "r", ExpectedRevision: 7,
			},
			"expected_revision", "at most the newest, 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Publish(t.Context(), test.req)
			_, violations, _ := strings.Cut(wantInvalid(t, err), ": ")
			if problem, ok := strings.CutPrefix(violations, test.field+" "); !ok || !strings.Contains(problem, test.text) {
				t.Errorf("violations are %q, want %s ...%s...", violations, test.field, test.text)
			}
		})
	}
	if got := revisionOf(t, c); got != 1 {
		t.Errorf("refusals led to revision %d", got)
	}
	if got := valueOf(t, c, id("1"), "search.limit"); got != "30" {
		t.Errorf("refusals led to value %q", got)
	}
}

func TestNamesOfScopesFollowTheCommonRules(t *testing.T) {
	c, _ := declared(t)
	try := func(layer configv1.Layer, app, selector string) error {
		_, err := c.Publish(t.Context(), &configv1.PublishRequest{
			Changes: []*configv1.Change{{Name: "search.limit", Scope: at(layer, app, selector), Value: "40"}},
			Author:  "bob", Reason: "why not", DryRun: true,
		})
		if err != nil && strings.Contains(errs.FromRPC(err).Error(), "has declared anything") {
			return nil // the name is allowed, there is only no such app
		}
		return errs.FromRPC(err)
	}
	namestest.Check(t, names.Service, func(name string) error { return try(configv1.Layer_LAYER_APP, name, "") })
	namestest.Check(t, names.ID, func(name string) error { return try(configv1.Layer_LAYER_ZONE, "catalog", name) })
	namestest.Check(t, names.ID, func(name string) error { return try(configv1.Layer_LAYER_INSTANCE, "catalog", name) })
}

func change(changes ...*configv1.Change) *configv1.PublishRequest {
	return &configv1.PublishRequest{Changes: changes, Author: "bob", Reason: "why not"}
}

func TestStaleRevisionNamesWhoChangedWhat(t *testing.T) {
	c, _ := declared(t)
	first := publish(t, c, set("search.limit", "30"), set("greeting", "hi"))
	publish(t, c, set("greeting", "ho"))
	publish(t, c, remove("greeting"))
	publish(t, c, set("ratio", "1"))

	_, err := c.Publish(
		t.Context(),
		&configv1.PublishRequest{
			Changes: []*configv1.Change{set("greeting", "hu")}, ExpectedRevision: first, Author: "bob", Reason: "r",
		},
	)
	got, want := wantKind(t, err, errs.Conflict), `"greeting" was changed by ann in revision 3`
	if errs.Reason(err) != "STALE_REVISION" || !strings.Contains(got, want) {
		t.Errorf("reason is %q and text %q, want STALE_REVISION and ...%s...", errs.Reason(err), got, want)
	}
	resp, err := c.Publish(
		t.Context(),
		&configv1.PublishRequest{
			Changes: []*configv1.Change{set("search.limit", "31")}, ExpectedRevision: first, Author: "bob", Reason: "r",
		},
	)
	if err != nil || resp.GetRevision() != 5 {
		t.Errorf("a name that was not changed since: revision %d, error %v", resp.GetRevision(), err)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("greeting", "hi"))
	resp, err := c.Publish(t.Context(), &configv1.PublishRequest{
		Changes: []*configv1.Change{set("greeting", "ho"), set("ratio", "1")}, Author: "a", Reason: "r", DryRun: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &configv1.PublishResponse{Revision: 2, Applied: []*configv1.AppliedChange{
		{Name: "greeting", Scope: forApp("catalog"), Before: new("hi"), After: new("ho")},
		{Name: "ratio", Scope: forApp("catalog"), After: new("1")},
	}}
	if diff := cmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := revisionOf(t, c); got != 1 {
		t.Errorf("a dry run made revision %d", got)
	}
}

func TestSettingTheSameValueMakesNoRevision(t *testing.T) {
	c, _ := declared(t)
	first := publish(t, c, set("search.limit", "30"))
	resp, err := c.Publish(
		t.Context(),
		&configv1.PublishRequest{Changes: []*configv1.Change{set("search.limit", "30")}, Author: "bob", Reason: "again"},
	)
	if err != nil || resp.GetRevision() != first || len(resp.GetApplied()) != 0 {
		t.Errorf("the same value: got %v, %v, want revision %d and no changes", resp, err, first)
	}
	if got := publish(t, c, set("search.limit", "30"), set("enabled", "false")); got != first+1 {
		t.Errorf("one of two changes something: got revision %d, want %d", got, first+1)
	}
	d, err := c.Diff(t.Context(), &configv1.DiffRequest{From: first})
	if err != nil || len(d.GetChanges()) != 1 || d.GetChanges()[0].GetName() != "enabled" {
		t.Errorf("the second revision has %v, %v, want only enabled", d.GetChanges(), err)
	}
	publish(t, c, override("search.limit", "40", time.Minute))
	for _, ttl := range []time.Duration{time.Hour, 0} {
		before := revisionOf(t, c)
		if got := publish(t, c, override("search.limit", "40", ttl)); got != before+1 {
			t.Errorf("the same value for %v: got revision %d, want %d", ttl, got, before+1)
		}
	}
}

func TestReplicasPublishAtOnceWithoutGaps(t *testing.T) {
	servers, _ := replicas(t, 2)
	clients := []configv1.ConfigClient{servers[0].Client(t), servers[1].Client(t)}
	declare(t, clients[0])
	eventually(t, func() error {
		_, err := clients[1].Explain(t.Context(), &configv1.ExplainRequest{Name: "greeting"})
		return err
	})
	const writers, each = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				_, err := clients[w%2].Publish(t.Context(), &configv1.PublishRequest{
					Changes: []*configv1.Change{set("greeting", fmt.Sprintf("%d/%d", w, i))}, Author: fmt.Sprint(w), Reason: "race",
				})
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	group.Wait()
	hist, err := clients[0].History(t.Context(), &configv1.HistoryRequest{Limit: 500})
	if err != nil || len(hist.GetRevisions()) != writers*each {
		t.Fatalf("%d revisions, want %d; error %v", len(hist.GetRevisions()), writers*each, err)
	}
	for i, r := range hist.GetRevisions() {
		if r.GetRevision() != int64(writers*each-i) {
			t.Fatalf("revision %d stands where %d belongs", r.GetRevision(), writers*each-i)
		}
		if i+1 == writers*each {
			break
		}
		replaced, before := r.GetChanges()[0].GetBefore(), hist.GetRevisions()[i+1].GetChanges()[0].GetAfter()
		if replaced != before {
			t.Errorf("revision %d replaced %q, but the one before set %q", r.GetRevision(), replaced, before)
		}
	}
}

// lagging is a store whose watches are late without reporting a problem.
type lagging struct{ *kvmem.Store }

func (s lagging) Watch(ctx context.Context, prefix string) kv.Watch {
	late, source := driver.NewFeed(prefix, nil), s.Store.Watch(ctx, prefix)
	go func() {
		u, err := source.Next(ctx)
		for late.Reset(u.Puts, u.Revision); err == nil; late.Apply(u) {
			u, err = source.Next(ctx)
			select {
			case <-time.After(time.Second): // of fake time
			case <-ctx.Done():
			}
		}
		late.Close(err)
	}()
	return late.Watch(ctx)
}

// TestReplicaThatIsBehindAnswersFromTheStore asks a replica whose copy is out of date. By its copy the value is there
// already, or there is none to remove, or the expected revision does not exist. In the store this is no longer true.
func TestReplicaThatIsBehindAnswersFromTheStore(t *testing.T) {
	as := func(expected int64, c *configv1.Change) *configv1.PublishRequest {
		return &configv1.PublishRequest{
			Changes: []*configv1.Change{c}, ExpectedRevision: expected, Author: "ann", Reason: "test",
		}
	}
	type call func(ctx context.Context, behind configv1.ConfigClient) (*configv1.PublishResponse, error)
	publishing := func(req *configv1.PublishRequest) call {
		return func(ctx context.Context, behind configv1.ConfigClient) (*configv1.PublishResponse, error) {
			return behind.Publish(ctx, req)
		}
	}
	rollingBack := func(ctx context.Context, behind configv1.ConfigClient) (*configv1.PublishResponse, error) {
		return behind.Rollback(ctx, &configv1.RollbackRequest{To: 1, ExpectedRevision: 2, Author: "ann", Reason: "test"})
	}
	for name, c := range map[string]struct {
		do             call
		greeting, mode string // at the end
	}{
		"set what is there in the copy":                   {publishing(as(0, set("greeting", "x"))), "x", "exact"},
		"remove what is not there in the copy":            {publishing(as(0, remove("search.mode"))), "y", "fast"},
		"expect a revision that the copy does not have":   {publishing(as(2, set("greeting", "x"))), "x", "exact"},
		"roll back from a revision that it does not have": {rollingBack, "x", "fast"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := kvmem.New()
				up := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
				behind := configtest.NewServer(
					t, &configtest.Options{Config: config.Options{Store: lagging{store.Peer()}}},
				).Client(t)
				declare(t, up)
				publish(t, up, set("greeting", "x"))
				time.Sleep(time.Minute) // of fake time
				publish(t, up, set("greeting", "y"), set("search.mode", "exact"))
				resp, err := c.do(t.Context(), behind)
				if err != nil || resp.GetRevision() != 3 {
					t.Fatalf("revision %d, %v, want 3", resp.GetRevision(), err)
				}
				for setting, want := range map[string]string{"greeting": c.greeting, "search.mode": c.mode} {
					if got := valueOf(t, up, id("catalog-1"), setting); got != want {
						t.Errorf("%s is %q, want %q", setting, got, want)
					}
				}
			})
		})
	}
}
