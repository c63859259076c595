package web_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/services/cinema/web"
)

func TestAPIRefusesMalformedRequests(t *testing.T) {
	s := open(t, nil)
	for _, path := range []string{"/api/home", "/api/titles/fargo-1996", "/api/search", "/api/profiles"} {
		httpapitest.Check(t, s.handler, "GET", path, "")
	}
	httpapitest.Check(t, s.handler, "POST", "/api/profiles", `{"id":"ann","name":"Ann"}`)
	httpapitest.Check(t, s.handler, "PUT", "/api/ratings", `{"key":"k","profile":"ingrid","title":"fargo-1996","stars":1}`)
	httpapitest.Check(t, s.handler, "POST", "/api/playback", `{"session":"s","profile":"ingrid","title":"fargo-1996"}`)
	httpapitest.Check(t, s.handler, "POST", "/api/playback/s/heartbeat", `{"sequence":1,"position":1}`)
	httpapitest.Check(t, s.handler, "POST", "/api/playback/s/stop", `{"sequence":1,"position":1}`)
}

// problem sends a request that must be refused with a status, and returns the problem.
func (s *site) problem(method, path, body string, want int) errs.Problem {
	s.t.Helper()
	status, got := s.do(s.request(method, path, body))
	var p errs.Problem
	if err := json.Unmarshal([]byte(got), &p); err != nil || status != want || p.Status != want {
		s.t.Errorf("%s %s %s: status %d, want %d and a problem (%v): %s", method, path, body, status, want, err, got)
	}
	return p
}

// fieldsOf returns the fields that a problem names.
func fieldsOf(p errs.Problem) []string {
	var out []string
	for _, e := range p.Errors {
		out = append(out, e.Field)
	}
	slices.Sort(out)
	return out
}

func TestAPINamesEveryWrongField(t *testing.T) {
	s := open(t, nil)
	for _, c := range []struct {
		method, path, body string
		want               []string
	}{
		{"POST", "/api/profiles", `{"id":"A B","name":"","household":"/"}`, []string{"household", "id", "name"}},
		{
			"PUT", "/api/ratings", `{"key":"","profile":"?","title":"","stars":6}`,
			[]string{"key", "profile_id", "stars", "title_id"},
		},
		{
			"POST", "/api/playback", `{"session":"","profile":"","title":""}`,
			[]string{"profile_id", "session_id", "title_id"},
		},
		{"POST", "/api/playback/s/heartbeat", `{"sequence":0,"position":1}`, []string{"sequence"}},
		{"GET", "/api/search?q=" + strings.Repeat("x", 201), "", []string{"query"}},
	} {
		p := s.problem(c.method, c.path, c.body, http.StatusBadRequest)
		if diff := cmp.Diff(c.want, fieldsOf(p)); diff != "" {
			t.Errorf("%s %s %s: fields of the problem (-want +got):\n%s", c.method, c.path, c.body, diff)
		}
	}
}

func TestAPIHasNothingAtOtherPaths(t *testing.T) {
	s := open(t, nil)
	for _, path := range []string{"/api/", "/api/unknown", "/api/titles/", "/api/playback/s", "/api/titles/a/b"} {
		s.problem("GET", path, "", http.StatusNotFound)
	}
	s.problem("GET", "/api/titles/no-such-film", "", http.StatusNotFound)
}

func TestAPIProfiles(t *testing.T) {
	s := open(t, nil)
	const ann = `{"id":"ann","name":" Ann ","household":"attic"}`
	for range 2 { // a retry creates no second profile
		var got web.Viewer
		s.call("POST", "/api/profiles", ann, &got)
		if diff := cmp.Diff(web.Viewer{ID: "ann", Name: "Ann"}, got); diff != "" {
			t.Errorf("the created profile (-want +got):\n%s", diff)
		}
	}
	s.problem("POST", "/api/profiles", `{"id":"ann","name":"Anna","household":"attic"}`, http.StatusConflict)
	for household, want := range map[string][]web.Viewer{
		"attic": {{ID: "ann", Name: "Ann"}},
		"empty": {},
		"": {
			{ID: "ingrid", Name: "Ingrid"},
			{ID: "marcel", Name: "Marcel"},
			{ID: "noor", Name: "Noor"},
			{ID: "theo", Name: "Theo"},
		},
	} {
		var got struct{ Profiles []web.Viewer }
		s.call("GET", "/api/profiles?household="+household, "", &got)
		if diff := cmp.Diff(want, got.Profiles); diff != "" { // an empty list is [], not null
			t.Errorf("household %q (-want +got):\n%s", household, diff)
		}
	}
}

func TestAPIConcurrentCreationsMakeOneProfile(t *testing.T) {
	s := open(t, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			const body = `{"id":"twin","name":"Twin","household":"twins"}`
			if status, got := s.do(s.request("POST", "/api/profiles", body)); status != http.StatusOK {
				t.Errorf("creating the profile: status %d: %s", status, got)
			}
		})
	}
	wg.Wait()
	var got struct{ Profiles []web.Viewer }
	s.call("GET", "/api/profiles?household=twins", "", &got)
	if len(got.Profiles) != 1 {
		t.Errorf("the household has the profiles %v, want one", got.Profiles)
	}
}

func TestAPIRatings(t *testing.T) {
	s := open(t, nil)
	type rating struct {
		Stars   int
		Applied bool
	}
	for _, step := range []struct {
		name, body string
		want       rating
	}{
		{"new", `{"key":"k1","profile":"ingrid","title":"fargo-1996","stars":2}`, rating{2, true}},
		{"changed", `{"key":"k2","profile":"ingrid","title":"fargo-1996","stars":5}`, rating{5, true}},
		{"late retry of the first", `{"key":"k1","profile":"ingrid","title":"fargo-1996","stars":2}`, rating{5, false}},
		{"removed", `{"key":"k3","profile":"ingrid","title":"fargo-1996","stars":0}`, rating{0, true}},
		{"rated again", `{"key":"k4","profile":"ingrid","title":"fargo-1996","stars":3}`, rating{3, true}},
	} {
		var got rating
		s.call("PUT", "/api/ratings", step.body, &got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		var film struct{ Stars int }
		s.call("GET", "/api/titles/fargo-1996?profile=ingrid", "", &film)
		if film.Stars != step.want.Stars {
			t.Errorf("%s: the film has %d stars, want %d", step.name, film.Stars, step.want.Stars)
		}
	}
}

func TestAPIPlayback(t *testing.T) {
	s := open(t, nil)
	type session struct {
		Session, Title     string
		Position, Duration float64
		Sequence           int64
		Stopped            bool
	}
	at := func(position float64, sequence int64, stopped bool) session {
		return session{"s1", "fargo-1996", position, 87 * 60, sequence, stopped}
	}
	const start = `{"session":"s1","profile":"ingrid","title":"fargo-1996"}`
	for _, step := range []struct {
		name, path, body string
		want             session
	}{
		{"start", "", start, at(0, 0, false)},
		{"start again", "", start, at(0, 0, false)},
		{"progress", "/s1/heartbeat", `{"sequence":1,"position":90.5}`, at(90.5, 1, false)},
		{"report with an old number", "/s1/heartbeat", `{"sequence":1,"position":10}`, at(90.5, 1, false)},
		{"number left out", "/s1/heartbeat", `{"sequence":5,"position":600}`, at(600, 5, false)},
		{"before the beginning", "/s1/heartbeat", `{"sequence":6,"position":-5}`, at(0, 6, false)},
		{"after the end", "/s1/heartbeat", `{"sequence":7,"position":1e300}`, at(87*60, 7, false)},
		{"stop", "/s1/stop", `{"sequence":8,"position":900}`, at(900, 8, true)},
		{"stop again", "/s1/stop", `{"sequence":8,"position":900}`, at(900, 8, true)},
		{"report after the stop", "/s1/heartbeat", `{"sequence":9,"position":1}`, at(900, 8, true)},
	} {
		var got session
		s.call("POST", "/api/playback"+step.path, step.body, &got)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	s.problem("POST", "/api/playback", `{"session":"s1","profile":"theo","title":"fargo-1996"}`, http.StatusConflict)
	s.problem("POST", "/api/playback", `{"session":"s2","profile":"ingrid","title":"none"}`, http.StatusNotFound)
	s.problem("POST", "/api/playback/none/heartbeat", `{"sequence":1,"position":1}`, http.StatusNotFound)
	s.problem("POST", "/api/playback/s1/heartbeat", `{"sequence":1.5,"position":1}`, http.StatusBadRequest)
	s.problem("POST", "/api/playback/s1/heartbeat", `{"sequence":1,"position":"1"}`, http.StatusBadRequest)
}

func TestAPIFilm(t *testing.T) {
	s := open(t, nil)
	s.start("fargo-1996")
	type film struct {
		web.Card
		Director   string
		Minutes    int
		IMDBRating float64 `json:"imdbRating"`
		More       []web.Card
	}
	fargo := film{
		Card: web.Card{ID: "fargo-1996", Name: "Fargo", Year: 1996, Genre: "Thriller/Suspense"}, Director: "Joel Coen",
		Minutes: 87, IMDBRating: 8.3,
	}
	viewed := fargo
	viewed.Percent, viewed.Left = 17, 72
	for query, want := range map[string]film{"": fargo, "?profile=ingrid": viewed, "?profile=unknown": fargo} {
		var got film
		s.call("GET", "/api/titles/fargo-1996"+query, "", &got)
		if len(got.More) < 3 || slices.ContainsFunc(got.More, func(c web.Card) bool { return c.ID == "fargo-1996" }) {
			t.Errorf("query %q: similar films are %v, want at least three others", query, got.More)
		}
		got.More = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("query %q (-want +got):\n%s", query, diff)
		}
	}
}

func TestAPISearch(t *testing.T) {
	s := open(t, nil)
	type result struct {
		Hits  []web.Card
		Total int
	}
	for query, want := range map[string]result{
		"":         {Hits: []web.Card{}}, // an empty list is [], not null
		"qqqqqqqq": {Hits: []web.Card{}},
		"leon": {
			Hits: []web.Card{{ID: "leon-1994", Name: "Léon", Year: 1994, Genre: "Thriller/Suspense"}}, Total: 1,
		},
	} {
		var got result
		s.call("GET", "/api/search?q="+query, "", &got)
		if query == "leon" { // other films match the first letters
			got.Hits, got.Total = got.Hits[:1], 1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("query %q (-want +got):\n%s", query, diff)
		}
	}
	var many result
	s.call("GET", "/api/search?q=drama", "", &many)
	if len(many.Hits) != 24 || many.Total <= 24 {
		t.Errorf("query drama: %d hits of %d, want 24 of more", len(many.Hits), many.Total)
	}
}

// The names in all responses are lowerCamelCase, and the responses are not cached or taken for another type.
func TestAPIResponses(t *testing.T) {
	s := open(t, nil)
	s.start("fargo-1996")
	camel := regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)
	var check func(path string, v any)
	check = func(path string, v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				check(path, e)
			}
		case map[string]any:
			for name, e := range v {
				if !camel.MatchString(name) {
					t.Errorf("GET %s has a field %q, want lowerCamelCase", path, name)
				}
				check(path, e)
			}
		}
	}
	for _, path := range []string{
		"/api/home", "/api/home?profile=ingrid", "/api/titles/fargo-1996?profile=ingrid", "/api/search?q=star",
		"/api/profiles", "/api/unknown",
	} {
		resp, err := s.RoundTrip(s.request("GET", path, ""))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			t.Errorf("GET %s: %v", path, err)
		}
		check(path, v)
		kind := "application/json"
		if resp.StatusCode != http.StatusOK {
			kind = "application/problem+json"
		}
		for name, want := range map[string]string{"Content-Type": kind, "Cache-Control": "no-store"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
}
