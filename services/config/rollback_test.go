package config_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func rollback(to int64) *configv1.RollbackRequest {
	return &configv1.RollbackRequest{To: to, Author: "bob", Reason: "it was better"}
}

func TestRollbackRestoresTheValuesOfARevision(t *testing.T) {
	c, _ := declared(t)
	one := publish(t, c, set("greeting", "one"), set("ratio", "0.1"))
	publish(t, c, set("greeting", "two"))
	last := publish(t, c, remove("ratio"), set("search.limit", "9"))

	trial := rollback(one)
	trial.DryRun = true
	want := &configv1.PublishResponse{Revision: last + 1, Applied: []*configv1.AppliedChange{
		{Name: "greeting", Scope: forApp("catalog"), Before: new("two"), After: new("one")},
		{Name: "ratio", Scope: forApp("catalog"), After: new("0.1")},
		{Name: "search.limit", Scope: forApp("catalog"), Before: new("9")},
	}}
	resp, err := c.Rollback(t.Context(), trial)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}
	if got := revisionOf(t, c); got != last {
		t.Errorf("a dry run made revision %d", got)
	}

	req := rollback(one)
	req.ExpectedRevision = last
	if resp, err = c.Rollback(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Errorf("rollback (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"greeting": "one", "ratio": "0.1", "search.limit": "20"} {
		if got := valueOf(t, c, id("1"), name); got != want {
			t.Errorf("after rollback %s is %q, want %q", name, got, want)
		}
	}
	hist, err := c.History(t.Context(), &configv1.HistoryRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r := hist.GetRevisions()[0]; r.GetRevision() != last+1 || r.GetAuthor() != "bob" || len(r.GetChanges()) != 3 {
		t.Errorf("the history records %v, want a revision of bob's with three changes", r)
	}
}

func TestRollbackRefusals(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("search.limit", "90"))
	publish(t, c, set("search.limit", "10"))
	publish(t, c, set("greeting", "x"))
	publish(t, c, remove("greeting"))
	outdated := rollback(1)
	outdated.ExpectedRevision = 3
	for name, test := range map[string]struct {
		req  *configv1.RollbackRequest
		kind errs.Kind
		text string
	}{
		"no revision":       {rollback(0), errs.Invalid, "to must be a revision"},
		"negative revision": {rollback(-1), errs.Invalid, "to must be a revision"},
		"the newest":        {rollback(4), errs.Invalid, "to must be older than the newest revision, 4, is 4"},
		"in the future":     {rollback(5), errs.Invalid, "to must be older than the newest revision, 4, is 5"},
		"no difference":     {rollback(2), errs.Invalid, "to must differ from the newest revision, 4"},
		"outdated":          {outdated, errs.Conflict, "made by ann in revision 4"},
		"no author":         {&configv1.RollbackRequest{To: 1, Reason: "r"}, errs.Invalid, "author must not be empty"},
		"no reason":         {&configv1.RollbackRequest{To: 1, Author: "a"}, errs.Invalid, "reason must not be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Rollback(t.Context(), test.req)
			wantKind(t, err, test.kind)
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("text is %q, want ...%s...", err, test.text)
			}
		})
	}
	if got := revisionOf(t, c); got != 4 {
		t.Errorf("refusals led to revision %d", got)
	}
}

// Values that fitted when they were published may not fit today. A name that no app declares any more does not matter.
func TestRollbackChecksTodaysDeclarations(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("search.limit", "90"), set("greeting", "old"))
	publish(t, c, set("search.limit", "10"), set("greeting", "new"))
	narrower := catalog()
	narrower.Properties[0].Max = "50"
	if _, err := c.Declare(t.Context(), narrower); err != nil {
		t.Fatal(err)
	}
	_, err := c.Rollback(t.Context(), rollback(1))
	wantInvalid(t, err)
	if want := "search.limit must be at most 50, is 90 (declared by catalog)"; !strings.Contains(err.Error(), want) {
		t.Errorf("text is %q, want ...%s...", err, want)
	}
	if got := revisionOf(t, c); got != 2 {
		t.Errorf("the refusal led to revision %d", got)
	}
	without := catalog()
	without.Properties = without.Properties[1:]
	if _, err := c.Declare(t.Context(), without); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rollback(t.Context(), rollback(1)); err != nil {
		t.Errorf("rolling back a name that no app declares any more: %v", err)
	}
	if got := valueOf(t, c, id("1"), "search.limit"); got != "90" {
		t.Errorf("search.limit is %q, want 90", got)
	}
}

func TestRollbackOfMoreThanATransactionHolds(t *testing.T) {
	c, _ := declared(t)
	member := func(i int) string { return fmt.Sprintf("hystrix.command.c%d.circuitBreaker.forceOpen", i) }
	var changes []*configv1.Change
	for i := range 127 {
		changes = append(changes, set(member(i), "true"))
	}
	publish(t, c, set("greeting", "first"))
	publish(t, c, changes[:100]...)
	publish(t, c, changes[100:]...)
	_, err := c.Rollback(t.Context(), rollback(1))
	wantInvalid(t, err)
	if want := "to must differ in at most 126 values, differs in 127"; !strings.Contains(err.Error(), want) {
		t.Errorf("text is %q, want ...%s...", err, want)
	}
	publish(t, c, remove(member(0)))
	resp, err := c.Rollback(t.Context(), rollback(1))
	if err != nil || len(resp.GetApplied()) != 126 {
		t.Errorf("rolling back 126 values changed %d, error %v", len(resp.GetApplied()), err)
	}
}

// A rollback to a time when overrides were in force restores those that have not expired since, with their end.
func TestRollbackAndOverrides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		publish(t, c, override("search.limit", "50", 10*time.Minute), override("greeting", "hi", 20*time.Minute))
		publish(t, c, override("search.limit", "60", 30*time.Minute))
		both := publish(t, c, set("ratio", "1"))
		removal := override("greeting", "", 0)
		removal.Remove = true
		publish(t, c, removal)
		time.Sleep(15 * time.Minute)
		resp, err := c.Rollback(t.Context(), rollback(1))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, a := range resp.GetApplied() {
			got[a.GetName()] = a.GetAfter()
		}
		if want := map[string]string{"search.limit": "", "greeting": "hi", "ratio": ""}; !cmp.Equal(got, want) {
			t.Errorf("rolling back to revision 1 sets %v, want %v: the first search.limit has expired", got, want)
		}
		if _, err = c.Rollback(t.Context(), rollback(both)); err != nil {
			t.Fatal(err)
		}
		if got := valueOf(t, c, id("1"), "search.limit"); got != "60" {
			t.Errorf("rolling back to revision %d: search.limit is %q, want 60", both, got)
		}
		time.Sleep(10 * time.Minute)
		if got := valueOf(t, c, id("1"), "greeting"); got != "hello" {
			t.Errorf("the restored greeting is still %q at the end of its time", got)
		}
		if got := valueOf(t, c, id("1"), "search.limit"); got != "60" {
			t.Errorf("the restored search.limit is %q before the end of its time", got)
		}
		time.Sleep(10 * time.Minute)
		if got := valueOf(t, c, id("1"), "search.limit"); got != "20" {
			t.Errorf("the restored search.limit is still %q at the end of its time", got)
		}
	})
}
