package web_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/cinematest"
)

// allKinds are the kinds of rows on a home page without fallbacks.
var allKinds = []string{"continue", "recommended", "popular", "genre"}

// Each service is stopped once. The home page still works, and says which parts it replaced.
func TestHomePageReplacesThePartsOfStoppedServices(t *testing.T) {
	for stopped, want := range map[string]struct{ kinds, degraded []string }{
		"none":            {allKinds, nil},
		"search":          {allKinds, nil},
		"playback":        {allKinds, nil},
		"profiles":        {allKinds, []string{"profiles"}},
		"recommendations": {allKinds, []string{"recommendations"}},
		"viewing":         {[]string{"recommended", "popular", "genre"}, []string{"recommendations", "viewing"}},
		"ratings":         {allKinds, []string{"ratings", "recommendations"}},
		"catalog":         {allKinds, []string{"catalog", "recommendations"}}, // web has seen the films before
	} {
		t.Run(stopped, func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			s.start("fargo-1996")
			s.home()
			if stopped != "none" {
				s.Kill(stopped)
			}
			h := s.home()
			if diff := cmp.Diff(want.kinds, kinds(h)); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want.degraded, h.Degraded); diff != "" {
				t.Errorf("degraded (-want +got):\n%s", diff)
			}
			s.assertPage("/", http.StatusOK, "watch, Ingrid?")
		})
	}
}

func TestPopularFilmsReplaceRecommendations(t *testing.T) {
	s := open(t, nil)
	s.Kill("recommendations")
	h := s.home()
	row := h.Rows[0]
	if row.Kind != "recommended" || row.Note == "" || len(row.Cards) != 12 {
		t.Errorf("the first row is %q with note %q and %d films; want recommended, a note and 12 films", row.Kind, row.Note,
			len(row.Cards))
	}
	if first := row.Cards[0].ID; first != "the-shawshank-redemption-1994" {
		t.Errorf("the first film is %s, want the most popular one", first)
	}
	seen := map[string]bool{}
	for _, r := range h.Rows {
		for _, c := range r.Cards {
			if seen[c.ID] {
				t.Errorf("film %s is in two rows", c.ID)
			}
			seen[c.ID] = true
		}
	}
	counted := int64(0)
	for _, snap := range s.Circuits.Snapshots() {
		if snap.GetName() == "recommendations.Recommend" {
			counted = snap.GetRolling()["FALLBACK_SUCCESS"]
		}
	}
	if counted == 0 {
		t.Error("the circuit did not count the fallback")
	}
}

// Services that do not answer delay the home page by its budget and no longer.
func TestHomePageWaitsForSlowServicesAsLongAsItsBudget(t *testing.T) {
	for _, slow := range []string{"profiles", "viewing", "ratings", "recommendations", "catalog"} {
		t.Run(slow, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, map[string]string{"web.home.budget": "300ms"})
				s.home()
				s.Replace(slow, cinematest.Hang)
				begin := time.Now()
				h := s.home()
				if took := time.Since(begin); took > 301*time.Millisecond {
					t.Errorf("the home page took %v, want at most 300ms", took)
				}
				if !slices.Contains(h.Degraded, slow) {
					t.Errorf("degraded is %v, want %s in it", h.Degraded, slow)
				}
				if !slices.Contains(kinds(h), "popular") {
					t.Errorf("rows are %v, want popular in it", kinds(h))
				}
			})
		})
	}
}

func TestAllServicesStopped(t *testing.T) {
	s := open(t, nil)
	for _, name := range cinematest.Services {
		s.Kill(name)
	}
	s.assertPage("/", http.StatusOK, "The Godfather") // web has seen films
	s.restart()
	s.assertPage("/", http.StatusOK, "Temporarily unavailable", "Ingrid") // web has no film; the name is in the cookie
	for path, want := range map[string]int{
		"/titles/fargo-1996": 503, "/search?q=x": 503, "/browse": 503, "/profiles": 503, "/watch/s": 503, "/about/data": 503,
		"/search": 200, "/static/style.css": 200,
		"/api/search?q=x": 503, "/api/titles/fargo-1996": 503, "/api/profiles": 503, "/api/home": 200,
	} {
		status, body := s.get(path)
		if status != want {
			t.Errorf("GET %s: status %d, want %d", path, status, want)
		}
		for _, internal := range []string{"dial", "rpc error", ":7000"} {
			if status == 503 && strings.Contains(body, internal) {
				t.Errorf("GET %s shows %q to the user:\n%s", path, internal, mainOf(body))
			}
		}
	}
	for path, body := range map[string]string{
		"/api/playback":                  `{"session":"s","profile":"ingrid","title":"fargo-1996"}`,
		"/api/playback/s/heartbeat":      `{"sequence":1,"position":1}`,
		"/api/playback/s/stop":           `{"sequence":1,"position":1}`,
		"/api/profiles":                  `{"id":"a","name":"A"}`,
		"/api/ratings with the verb PUT": `{"key":"k","profile":"ingrid","title":"fargo-1996","stars":1}`,
	} {
		method := "POST"
		if p, ok := strings.CutSuffix(path, " with the verb PUT"); ok {
			method, path = "PUT", p
		}
		if status, got := s.do(s.request(method, path, body)); status != http.StatusServiceUnavailable {
			t.Errorf("%s %s: status %d, want 503: %s", method, path, status, got)
		}
	}
}

// The page of a film needs the film only. Other parts that fail are left out.
func TestPageOfAFilmLeavesOutPartsThatFail(t *testing.T) {
	for _, stopped := range []string{"ratings", "viewing", "profiles", "recommendations", "search", "playback"} {
		t.Run(stopped, func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			s.start("fargo-1996")
			s.call("PUT", "/api/ratings", `{"key":"k","profile":"ingrid","title":"fargo-1996","stars":4}`, nil)
			s.assertPage("/titles/fargo-1996", http.StatusOK, "You gave it 4 of 5", "Resume, 72 min left", "Our viewers")
			s.Kill(stopped)
			_, page := s.get("/titles/fargo-1996")
			for text, of := range map[string]string{
				"You gave it 4 of 5": "ratings", "Our viewers": "ratings", "Resume, 72 min left": "viewing",
				"Directed by": "catalog", "More by Joel Coen": "catalog",
			} {
				if got, want := strings.Contains(page, text), of != stopped; got != want {
					t.Errorf("without %s the page contains %q: %t, want %t", stopped, text, got, want)
				}
			}
		})
	}
}

func TestFilmsThatWereSeenAreShownWithoutTheCatalog(t *testing.T) {
	s := open(t, nil)
	s.assertPage("/titles/fargo-1996", http.StatusOK, "Directed by")
	s.start("fargo-1996")
	s.Kill("catalog")
	s.assertPage("/titles/fargo-1996", http.StatusOK, "Directed by")
	s.assertPage("/titles/the-alamo-1960", http.StatusServiceUnavailable, "Temporarily unavailable")
	s.assertPage("/watch/s-fargo-1996", http.StatusOK, "<h1>Fargo</h1>")
	s.restart()
	s.assertPage("/watch/s-fargo-1996", http.StatusOK, "<h1>Your film</h1>")
}

// A catalog with many films does not fill the memory of web.
func TestFilmsThatAreKeptAreLimited(t *testing.T) {
	s := open(t, nil)
	s.home() // connects
	many := &catalogv1.BrowseResponse{Total: 5000}
	for i := range 5000 {
		many.Titles = append(many.Titles, &catalogv1.Title{Id: fmt.Sprint("film-", i), Name: fmt.Sprint("Film ", i)})
	}
	s.restart()
	s.Replace("catalog", func(context.Context, string) (proto.Message, error) { return many, nil })
	s.assertPage("/browse", http.StatusOK, "5,000 films")
	s.Kill("catalog")
	s.assertPage("/titles/film-4095", http.StatusOK, "Film 4095")
	s.assertPage("/titles/film-4096", http.StatusServiceUnavailable)
}

// What a service answers is data: no answer must break a page or be shown as it is.
func TestPagesSurviveNonsenseFromServices(t *testing.T) {
	const hour = 3600
	for name, c := range map[string]struct {
		service string
		answer  map[string]proto.Message // by method; others get an empty response
		absent  string                   // must not be on the page of the film
	}{
		"empty catalog":  {service: "catalog"},
		"empty profiles": {service: "profiles"}, "empty viewing": {service: "viewing"}, "empty ratings": {service: "ratings"},
		"empty recommendations": {service: "recommendations"},
		"film without a name and an id": {"catalog", map[string]proto.Message{
			"GetTitles": &catalogv1.GetTitlesResponse{Titles: []*catalogv1.Title{{}}},
			"Shelves":   &catalogv1.ShelvesResponse{Shelves: []*catalogv1.Shelf{{Titles: []*catalogv1.Title{{}}}}},
			"Popular":   &catalogv1.PopularResponse{Titles: []*catalogv1.Title{{}, {}, {}, {}}},
		}, ""},
		"film with a script": {"catalog", map[string]proto.Message{
			"GetTitles": &catalogv1.GetTitlesResponse{Titles: []*catalogv1.Title{{
				Id: `"><script>`, Name: "<script>alert(1)</script>", Director: "<script>", Released: "<script>",
				Year: -1, Minutes: new(int32(-90)), ImdbVotes: -5, Budget: new(int64(-1)),
			}}},
		}, "<script>"},
		"profile with a script": {"profiles", map[string]proto.Message{
			"Get": &profilesv1.Profile{Name: "<script>"},
		}, "<script>"},
		"position after the end": {"viewing", map[string]proto.Message{
			"GetBookmark": &viewingv1.Bookmark{
				Position: &durationpb.Duration{Seconds: 9 * hour}, Duration: &durationpb.Duration{Seconds: hour},
			},
			"ContinueWatching": &viewingv1.BookmarksResponse{Bookmarks: []*viewingv1.Bookmark{{
				TitleId: "fargo-1996", Position: &durationpb.Duration{Seconds: 9 * hour},
				Duration: &durationpb.Duration{Seconds: hour},
			}}},
		}, "900 %"},
		"position before the beginning": {"viewing", map[string]proto.Message{
			"GetBookmark": &viewingv1.Bookmark{
				Position: &durationpb.Duration{Seconds: -hour}, Duration: &durationpb.Duration{Seconds: hour},
			},
		}, "120 min left"},
		"bookmark of an unknown film": {"viewing", map[string]proto.Message{
			"ContinueWatching": &viewingv1.BookmarksResponse{Bookmarks: []*viewingv1.Bookmark{{TitleId: "none"}, {}}},
		}, ""},
		"negative stars": {"ratings", map[string]proto.Message{
			"GetRatings": &ratingsv1.GetRatingsResponse{Ratings: []*ratingsv1.Rating{
				{TitleId: "fargo-1996", Stars: -3}, {TitleId: "the-shawshank-redemption-1994", Stars: -3},
			}},
		}, "-3 of 5"},
		"thousand stars": {"ratings", map[string]proto.Message{
			"GetRatings": &ratingsv1.GetRatingsResponse{Ratings: []*ratingsv1.Rating{
				{TitleId: "fargo-1996", Stars: 1000}, {TitleId: "the-shawshank-redemption-1994", Stars: 1000},
			}},
		}, "1000 of 5"},
		"recommendation of an unknown film": {"recommendations", map[string]proto.Message{
			"Recommend": &recommendationsv1.RecommendResponse{Picks: []*recommendationsv1.Pick{{TitleId: "none"}, {}}},
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, nil)
			s.Replace(c.service, func(_ context.Context, method string) (proto.Message, error) {
				if m := c.answer[method]; m != nil {
					return m, nil
				}
				return &catalogv1.GenresRequest{}, nil // an empty message of any type
			})
			s.assertPage("/", http.StatusOK, "</html>")
			status, page := s.get("/titles/fargo-1996")
			if want := http.StatusOK; status != want && name != "empty catalog" {
				t.Errorf("the page of the film has status %d, want %d", status, want)
			}
			if c.absent != "" && strings.Contains(page, c.absent) {
				t.Errorf("the page of the film contains %q:\n%s", c.absent, mainOf(page))
			}
			for _, path := range []string{"/browse", "/about/data", "/api/home?profile=ingrid", "/api/titles/fargo-1996"} {
				if status, body := s.get(path); status >= 500 {
					t.Errorf("GET %s: status %d: %.500s", path, status, body)
				}
			}
		})
	}
}

// The user sees a fixed text for each kind of error, and never the text of the error.
func TestErrorsOfServicesAreShownAsFixedTexts(t *testing.T) {
	s := open(t, map[string]string{"circuit.default.breakerEnabled": "false"})
	for kind, want := range map[errs.Kind]struct {
		status int
		text   string
	}{
		errs.Invalid:         {400, "A value in this request is not allowed"},
		errs.NotFound:        {404, "There is no page or film at this address"},
		errs.Exists:          {409, "It exists already"},
		errs.Denied:          {403, "Not allowed"},
		errs.Exhausted:       {429, "Many people use the cinema"},
		errs.Internal:        {500, "This was our fault"},
		errs.Precondition:    {412, "This was our fault"},
		errs.Unimplemented:   {501, "is not available yet"},
		errs.Unavailable:     {503, "is not available at the moment"},
		errs.Timeout:         {504, "This took too long"},
		errs.Unauthenticated: {401, "This was our fault"},
	} {
		s.Replace("search", cinematest.Fail(errs.Errorf(kind, "reading /secret/file")))
		status, page := s.get("/search?q=x")
		s.assertBody("an error that is "+kind.String(), status, want.status, page, want.text)
		if strings.Contains(page, "secret") {
			t.Errorf("an error that is %v: the page shows its text:\n%s", kind, mainOf(page))
		}
	}
}

func TestErrorPagesSayWhenToRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // web itself waits before it retries
		s := open(t, nil)
		s.Replace("search", cinematest.Fail(errs.Errorf(errs.Exhausted, "searching").RetryIn(7*time.Second)))
		for _, path := range []string{"/search?q=x", "/api/search?q=x"} {
			resp, err := s.RoundTrip(s.request("GET", path, "").WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("Retry-After"); resp.StatusCode != http.StatusTooManyRequests || got != "7" {
				t.Errorf("GET %s: status %d, Retry-After %q; want 429 and 7", path, resp.StatusCode, got)
			}
		}
	})
}

// A service that does not answer ends a page with 504 after the timeout of its circuit.
func TestPagesTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, map[string]string{"circuit.default.timeout": "700ms"})
		s.start("fargo-1996")
		for _, name := range []string{"search", "profiles", "playback", "catalog"} {
			s.Replace(name, cinematest.Hang)
		}
		for _, path := range []string{
			"/search?q=x", "/api/search?q=x", "/profiles", "/api/profiles", "/watch/s-fargo-1996", "/browse", "/about/data",
		} {
			begin := time.Now()
			status, body := s.get(path)
			if took := time.Since(begin); status != http.StatusGatewayTimeout || took > 2*time.Second {
				t.Errorf("GET %s: status %d after %v, want 504 after at most 2s: %.300s", path, status, took, mainOf(body))
			}
		}
	})
}
