package config_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"
)

// unprintable are texts that would forge a line of the history, or hide part of it.
var unprintable = map[string]string{
	"newline":             "ann\nrevision 9 by root",
	"carriage return":     "ann\rroot",
	"escape":              "ann\x1b[2K",
	"C1 control":          "ann\u009b2K",
	"bidi override":       "ann \u202etoor",
	"bidi isolate":        "ann \u2066toor",
	"zero-width space":    "an\u200bn",
	"line separator":      "ann\u2028root",
	"byte order mark":     "\ufeffann",
	"soft hyphen":         "an\u00adn",
	"tab":                 "ann\troot",
	"no text but spaces":  " \u00a0 ",
	"too long by a byte ": strings.Repeat("x", 1025),
}

func TestAuthorAndReasonAreOneVisibleLine(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("greeting", "one"))
	publish(t, c, set("greeting", "two"))
	for name, text := range unprintable {
		t.Run(name, func(t *testing.T) {
			for field, notes := range map[string][2]string{"author": {text, "why"}, "reason": {"ann", text}} {
				_, publishErr := c.Publish(t.Context(), &configv1.PublishRequest{
					Changes: []*configv1.Change{set("greeting", "three")}, Author: notes[0], Reason: notes[1],
				})
				_, rollbackErr := c.Rollback(t.Context(), &configv1.RollbackRequest{To: 1, Author: notes[0], Reason: notes[1]})
				for call, err := range map[string]error{"Publish": publishErr, "Rollback": rollbackErr} {
					if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), field+" must ") {
						t.Errorf("%s with this %s: error %v", call, field, err)
					}
					if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
						t.Errorf("%s with this %s: the error repeats it: %q", call, field, err)
					}
				}
			}
		})
	}
	if got := revisionOf(t, c); got != 2 {
		t.Errorf("refused texts led to revision %d", got)
	}
	if _, err := c.Publish(t.Context(), &configv1.PublishRequest{
		Changes: []*configv1.Change{set("greeting", "three")},
		Author:  "Zoë 李 (on call)", Reason: "größer, für « tous » – 100 %",
	}); err != nil {
		t.Errorf("letters of all languages: %v", err)
	}
}

func TestRESTRefusesUnprintableNotes(t *testing.T) {
	h := rest(t)
	for name, text := range unprintable {
		body, err := json.Marshal(map[string]any{
			"changes": []any{map[string]any{
				"name": "greeting", "scope": map[string]any{"layer": "LAYER_APP", "app": "catalog"}, "value": "x",
			}},
			"author": "ann", "reason": text,
		})
		if err != nil {
			t.Fatal(err)
		}
		w := ask(h, http.MethodPost, "/v1/publish", string(body))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"reason"`) {
			t.Errorf("%s: %d %s, want 400 that names the reason", name, w.Code, w.Body)
		}
	}
}

// Earlier versions accepted any text. What they stored is still there.
func TestOldUnprintableHistoryIsReadable(t *testing.T) {
	store := kvmem.New()
	author, reason := "ann\nroot", "why\x1b[2K \u202enot"
	note := func(rest string) []byte {
		a, r := mustJSON(t, author), mustJSON(t, reason)
		return fmt.Appendf(nil, `{"author":%s,"reason":%s,"time":"2026-11-01T10:00:00Z",%s}`, a, r, rest)
	}
	const scope = `"scope":{"layer":"LAYER_ZONE","app":"catalog","selector":"old zone\t1"}`
	_, err := store.Txn(t.Context(), kv.Txn{Then: []kv.Op{
		kv.Put("/bijou/config/live/head", note(`"revision":"1"`)),
		kv.Put("/bijou/config/history/000000000000/000000000000001",
			note(`"revision":"1","changes":[{"name":"greeting",`+scope+`,"after":"hi"}]`)),
		kv.Put("/bijou/config/live/values/greeting/5/catalog/old%20zone%091",
			note(`"value":{"name":"greeting","value":"hi","layer":"LAYER_ZONE","revision":"1",`+scope+`}`)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
	declare(t, c)
	hist, err := c.History(t.Context(), &configv1.HistoryRequest{})
	if err != nil || len(hist.GetRevisions()) != 1 {
		t.Fatalf("the history is %v, %v, want one revision", hist, err)
	}
	if r := hist.GetRevisions()[0]; r.GetAuthor() != author || r.GetReason() != reason {
		t.Errorf("it was made by %q for %q, want %q and %q", r.GetAuthor(), r.GetReason(), author, reason)
	}
	removal := &configv1.Change{
		Name: "greeting", Scope: at(configv1.Layer_LAYER_ZONE, "catalog", "old zone\t1"), Remove: true,
	}
	if got := publish(t, c, removal); got != 2 {
		t.Errorf("removing a value of an old zone made revision %d, want 2", got)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
