package config_test

import (
	"fmt"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func revisions(h *configv1.HistoryResponse) (list []int64) {
	for _, r := range h.GetRevisions() {
		list = append(list, r.GetRevision())
	}
	return list
}

// greetings publishes so many revisions, each with another greeting.
func greetings(t *testing.T, c configv1.ConfigClient, n int) {
	t.Helper()
	for i := range n {
		publish(t, c, set("greeting", fmt.Sprint(i+1)))
	}
}

func TestHistoryPages(t *testing.T) {
	c, _ := declared(t)
	greetings(t, c, 60)
	publish(t, c, set("ratio", "1"))
	greetings(t, c, 39) // revision 100 is the newest, several buckets of the store
	for name, test := range map[string]struct {
		req    *configv1.HistoryRequest
		newest int64
		n      int
	}{
		"without a limit":      {&configv1.HistoryRequest{}, 100, 50},
		"of three":             {&configv1.HistoryRequest{Limit: 3}, 100, 3},
		"all":                  {&configv1.HistoryRequest{Limit: 500}, 100, 100},
		"more than there is":   {&configv1.HistoryRequest{Limit: 1 << 30}, 100, 100},
		"before a revision":    {&configv1.HistoryRequest{Before: 66, Limit: 3}, 65, 3},
		"before a bucket":      {&configv1.HistoryRequest{Before: 64, Limit: 3}, 63, 3},
		"before the third":     {&configv1.HistoryRequest{Before: 3}, 2, 2},
		"before the first":     {&configv1.HistoryRequest{Before: 1}, 0, 0},
		"before the future":    {&configv1.HistoryRequest{Before: 1000, Limit: 2}, 100, 2},
		"of a name":            {&configv1.HistoryRequest{Name: "ratio"}, 61, 1},
		"of a name, before it": {&configv1.HistoryRequest{Name: "ratio", Before: 61}, 0, 0},
		"of an unknown name":   {&configv1.HistoryRequest{Name: "rati"}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			hist, err := c.History(t.Context(), test.req)
			if err != nil {
				t.Fatal(err)
			}
			var want []int64
			for i := range test.n {
				want = append(want, test.newest-int64(i))
			}
			if got := revisions(hist); !cmp.Equal(got, want) {
				t.Errorf("revisions are %v, want %v", got, want)
			}
		})
	}
	for name, req := range map[string]*configv1.HistoryRequest{
		"limit must not be negative": {Limit: -1}, "before must not be negative": {Before: -1},
	} {
		if _, err := c.History(t.Context(), req); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want ...%s...", err, name)
		}
	}
}

// Pages that follow each other have each revision once, although others publish between them.
func TestPagesOfHistoryFitTogether(t *testing.T) {
	c, _ := declared(t)
	greetings(t, c, 40)
	var got []int64
	for before := int64(0); before != 1; before = got[len(got)-1] {
		hist, err := c.History(t.Context(), &configv1.HistoryRequest{Before: before, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, revisions(hist)...)
		greetings(t, c, 2)
	}
	for i, r := range got {
		if want := int64(40 - i); r != want {
			t.Fatalf("revision %d is in place %d, want %d: %v", r, i, want, got)
		}
	}
}

func TestDiff(t *testing.T) {
	c, _ := declared(t)
	one := publish(t, c, set("greeting", "one"), set("ratio", "0.1"))
	publish(t, c, set("greeting", "two"))
	publish(t, c, remove("ratio"), set("search.limit", "9"))
	for i := range 70 { // several buckets of the store
		publish(t, c, set("enabled", fmt.Sprint(i%2 == 1)))
	}
	last := publish(t, c, remove("enabled"))
	changes := []*configv1.AppliedChange{
		{Name: "greeting", Scope: forApp("catalog"), Before: new("one"), After: new("two")},
		{Name: "ratio", Scope: forApp("catalog"), Before: new("0.1")},
		{Name: "search.limit", Scope: forApp("catalog"), After: new("9")},
	}
	var reversed []*configv1.AppliedChange
	for _, c := range changes {
		reversed = append(reversed, &configv1.AppliedChange{Name: c.Name, Scope: c.Scope, Before: c.After, After: c.Before})
	}
	for name, test := range map[string]struct {
		req  *configv1.DiffRequest
		want *configv1.DiffResponse
	}{
		"to the newest": {
			&configv1.DiffRequest{From: one}, &configv1.DiffResponse{From: one, To: last, Changes: changes},
		},
		"backwards": {
			&configv1.DiffRequest{From: last, To: one}, &configv1.DiffResponse{From: last, To: one, Changes: reversed},
		},
		"one revision": {
			&configv1.DiffRequest{From: 1, To: 2}, &configv1.DiffResponse{From: 1, To: 2, Changes: changes[:1]},
		},
		"nothing": {
			&configv1.DiffRequest{From: 4, To: 4}, &configv1.DiffResponse{From: 4, To: 4},
		},
		"from before the first": {
			&configv1.DiffRequest{To: 1}, &configv1.DiffResponse{To: 1, Changes: []*configv1.AppliedChange{
				{Name: "greeting", Scope: forApp("catalog"), After: new("one")},
				{Name: "ratio", Scope: forApp("catalog"), After: new("0.1")},
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.Diff(t.Context(), test.req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for text, req := range map[string]*configv1.DiffRequest{
		"from must be 0 to the newest": {From: last + 1}, "to must be 0 to the newest": {From: 1, To: last + 1},
		"from must be 0 to": {From: -1}, "to must be 0 to": {From: 1, To: -1},
	} {
		if _, err := c.Diff(t.Context(), req); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), text) {
			t.Errorf("comparing %d and %d: error %v, want ...%s...", req.GetFrom(), req.GetTo(), err, text)
		}
	}
}
