package web_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"google.golang.org/grpc"

	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	"bijou.dev/services/cinema/cinematest"
	"bijou.dev/services/cinema/web"
)

// site is a stack with the service web, and a browser in which the profile ingrid is chosen.
type site struct {
	*cinematest.Stack
	t      testing.TB
	url    string
	client *http.Client
}

func open(t testing.TB, settings map[string]string) *site {
	t.Helper()
	stack := cinematest.Full(t, settings)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := &site{stack, t, startWeb(t, stack), &http.Client{Jar: jar}}
	at.post("/profiles/choose", url.Values{"id": {"ingrid"}})
	return at
}

// startWeb starts an instance of web that has not seen any film, and returns its URL.
func startWeb(t testing.TB, stack *cinematest.Stack) string {
	t.Helper()
	peers, err := web.Dial(stack.Dial)
	if err != nil {
		t.Fatal(err)
	}
	s, err := web.NewServer(peers, stack.Settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}

func (s *site) do(r *http.Request) (int, string) {
	s.t.Helper()
	resp, err := s.client.Do(r.WithContext(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (s *site) request(method, path, body string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *site) get(path string) (int, string) {
	s.t.Helper()
	return s.do(s.request("GET", path, ""))
}

func (s *site) post(path string, form url.Values) (int, string) {
	s.t.Helper()
	r := s.request("POST", path, form.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.do(r)
}

func (s *site) home() (h web.Home) {
	s.t.Helper()
	status, body := s.get("/api/home?profile=ingrid")
	if err := json.Unmarshal([]byte(body), &h); err != nil || status != 200 {
		s.t.Fatalf("home: status %d, %v: %s", status, err, body)
	}
	return h
}

func kinds(h web.Home) []string {
	var out []string
	for _, r := range h.Rows {
		out = append(out, r.Kind)
	}
	return slices.Compact(out)
}

// start plays 15 minutes of a film, so that the home page offers to continue it.
func (s *site) start(title string) {
	s.t.Helper()
	for _, call := range [][2]string{
		{"/api/playback", `{"session": "s-` + title + `", "profile": "ingrid", "title": "` + title + `"}`},
		{"/api/playback/s-" + title + "/heartbeat", `{"sequence": 1, "position": 900}`},
	} {
		if status, body := s.do(s.request("POST", call[0], call[1])); status != 200 {
			s.t.Fatalf("%s: %d %s", call[0], status, body)
		}
	}
}

// Each service is stopped once. The home page still works, and says which parts it replaced.
func TestHomeWithoutAPart(t *testing.T) {
	for stopped, want := range map[string]struct{ kinds, degraded []string }{
		"none":            {[]string{"continue", "recommended", "popular", "genre"}, nil},
		"search":          {[]string{"continue", "recommended", "popular", "genre"}, nil},
		"playback":        {[]string{"continue", "recommended", "popular", "genre"}, nil},
		"profiles":        {[]string{"continue", "recommended", "popular", "genre"}, []string{"profiles"}},
		"recommendations": {[]string{"continue", "recommended", "popular", "genre"}, []string{"recommendations"}},
		"viewing":         {[]string{"recommended", "popular", "genre"}, []string{"recommendations", "viewing"}},
		"ratings":         {[]string{"continue", "recommended", "popular", "genre"}, []string{"ratings", "recommendations"}},
		// Films seen before are remembered.
		"catalog": {[]string{"continue", "recommended", "popular", "genre"}, []string{"catalog", "recommendations"}},
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
			if status, body := s.get("/"); status != 200 || !strings.Contains(body, "Ingrid") {
				t.Errorf("page: status %d, names Ingrid: %v", status, strings.Contains(body, "Ingrid"))
			}
		})
	}
}

func TestFallbackRowOfPopularFilms(t *testing.T) {
	s := open(t, nil)
	s.Kill("recommendations")
	h := s.home()
	row := h.Rows[0]
	if row.Kind != "recommended" || row.Note == "" || len(row.Cards) != 12 ||
		row.Cards[0].ID != "the-shawshank-redemption-1994" {
		t.Errorf("first row is %q, note %q, %d films", row.Kind, row.Note, len(row.Cards))
	}
	seen := map[string]bool{}
	for _, r := range h.Rows {
		for _, c := range r.Cards {
			if seen[c.ID] {
				t.Errorf("%s is shown twice", c.ID)
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

func TestSlowRecommendationsAreReplaced(t *testing.T) {
	s := open(t, nil)
	s.home() // connect first: this is about a slow service
	s.Kill("recommendations")
	s.Serve("recommendations", func(r grpc.ServiceRegistrar) {
		recommendationsv1.RegisterRecommendationsServer(r,
			stuck{})
	})
	if err := s.Settings.Put("web.home.budget", "50ms"); err != nil {
		t.Fatal(err)
	}
	if h := s.home(); !slices.Contains(h.Degraded, "recommendations") || h.Rows[0].Note == "" {
		t.Errorf("degraded %v, note %q", h.Degraded, h.Rows[0].Note)
	}
}

type stuck struct {
	recommendationsv1.UnimplementedRecommendationsServer
}

func (stuck) Recommend(ctx context.Context,
	_ *recommendationsv1.RecommendRequest,
) (*recommendationsv1.RecommendResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAllServicesStopped(t *testing.T) {
	s := open(t, nil)
	for _, name := range cinematest.Services {
		s.Kill(name)
	}
	if status, body := s.get("/"); status != 200 || !strings.Contains(body, "The Godfather") {
		t.Errorf("home page of web that has seen films: status %d, want 200 and The Godfather", status)
	}
	s.url = startWeb(t, s.Stack)
	if status, body := s.get("/"); status != 200 || !strings.Contains(body, "Temporarily unavailable") ||
		!strings.Contains(body, "Ingrid") {
		t.Errorf("home page of web that has not seen films: status %d, want 200, an apology and the name from the cookie",
			status)
	}
	for path, want := range map[string]int{
		"/titles/fargo-1996": 503, "/search?q=x": 503, "/browse": 503, "/profiles": 503, "/watch/s": 503, "/about/data": 503,
		"/search": 200, "/static/style.css": 200,
	} {
		status, body := s.get(path)
		if status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
		for _, internal := range []string{"connection", "rpc", "7000", "circuit"} {
			if status == 503 && strings.Contains(body, internal) {
				t.Errorf("%s shows the audience %q", path, internal)
			}
		}
	}
	if status, body := s.get("/api/search?q=x"); status != 503 || !strings.Contains(body, `"status":503`) {
		t.Errorf("API: %d %s", status, body)
	}
}

// A user without JavaScript creates a profile, searches, rates, plays, stops and resumes.
func TestJourneyWithoutScripts(t *testing.T) {
	s := open(t, nil)
	if _, body := s.post("/profiles", url.Values{"key": {"greta-1"}, "name": {"Greta & Co"}}); !strings.Contains(body,
		"Greta &amp; Co") {
		t.Error("the new profile is not greeted")
	}
	if _, body := s.get("/search?q=frago"); !strings.Contains(body, `href="/titles/fargo-1996"`) {
		t.Error("a misspelt title is not found")
	}
	_, page := s.post("/titles/fargo-1996/rate", url.Values{"key": {"k1"}, "stars": {"4"}})
	if !strings.Contains(page, "You gave it 4 of 5") {
		t.Error("the rating is not shown")
	}
	if status, _ := s.post("/titles/fargo-1996/rate", url.Values{"key": {"k2"}, "stars": {"9"}}); status != 400 {
		t.Errorf("nine stars: status %d", status)
	}
	if _, body := s.post("/titles/fargo-1996/play", url.Values{"key": {"p1"}}); !strings.Contains(body, "0:00:00") {
		t.Error("the film does not begin at the beginning")
	}
	if _, body := s.post("/watch/p1", url.Values{"sequence": {"1"}, "position": {"600"}}); !strings.Contains(body,
		"0:10:00") {
		t.Error("ten minutes on is not shown")
	}
	if _, body := s.post("/watch/p1", url.Values{
		"sequence": {"2"}, "position": {"900"},
		"action": {"stop"},
	}); !strings.Contains(body, "Resume, 72 min left") {
		t.Error("after the stop the film's page does not offer to go on")
	}
	if _, body := s.get("/"); !strings.Contains(body, "Continue watching") || !strings.Contains(body, "72 min left") {
		t.Error("home does not offer to continue")
	}
	if _, body := s.post("/titles/fargo-1996/play", url.Values{"key": {"p2"}}); !strings.Contains(body, "0:15:00") {
		t.Error("a second session does not go on where the first stopped")
	}
}

func TestSmallAmounts(t *testing.T) {
	at := open(t, nil)
	var found struct{ Hits []web.Card }
	if _, body := at.get("/api/search?q=the+mongol+king"); json.Unmarshal([]byte(body), &found) != nil ||
		len(found.Hits) == 0 {
		t.Fatalf("searching: %s", body)
	}
	if _, page := at.get("/titles/" + found.Hits[0].ID); !strings.Contains(page, "$900<") {
		t.Errorf("a film that took 900 dollars does not say so: %s", page[max(0, strings.Index(page, "Gross")):][:40])
	}
}

func TestNumbersAndDatesAreForPeople(t *testing.T) {
	at := open(t, nil)
	for path, wants := range map[string][]string{
		"/titles/the-godfather-1972": {"/10, 411,088 votes", `<time datetime="1972-03-15">15 March 1972</time>`},
		"/titles/gone-with-the-wind": {"Year not known"}, // it has an impossible date
		"/browse":                    {"3,200 films, by title"},
		"/browse?genre=Drama":        {"789 films, by title"},
		"/about/data":                {"Of 3,201 records we show 3,200"},
	} {
		_, page := at.get(path)
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("%s does not say %q", path, want)
			}
		}
	}
}

func TestProgressAfterTheEndIsTheEnd(t *testing.T) {
	at := open(t, nil)
	at.start("the-matrix-1999")
	_, page := at.post("/watch/s-the-matrix-1999", url.Values{"sequence": {"2"}, "position": {"10000000000"}})
	if !strings.Contains(page, `data-position="8160"`) {
		t.Errorf("the player is not at the end: %s", page[max(0, strings.Index(page, "data-position")):][:40])
	}
}

func TestLargePagesAreCompressed(t *testing.T) {
	at := open(t, nil)
	plain := func(path string) string {
		r := at.request("GET", path, "")
		r.Header.Set("Accept-Encoding", "identity")
		_, body := at.do(r)
		return body
	}
	for accept, want := range map[string]bool{
		"gzip": true, "br, GZIP;q=0.8": true, "*": true, "identity": false, "gzip;q=0": false, "br;q=1, gzip; q=0, *": false,
	} {
		r := at.request("GET", "/about/data", "")
		r.Header["Accept-Encoding"] = []string{accept}
		resp, err := at.client.Do(r.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.ContentLength != int64(len(body)) || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: %d of %d bytes, varies by %q, %v", accept, len(body), resp.ContentLength,
				resp.Header.Get("Vary"), err)
		}
		if got := resp.Header.Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: compressed is %t, want %t", accept, got, want)
			continue
		}
		if want {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.HasSuffix(string(body), "</html>") {
			t.Errorf("Accept-Encoding %q: the page ends with %q", accept, body[max(0, len(body)-20):])
		}
	}
	r := at.request("GET", "/nowhere", "")
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := at.client.Do(r.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if small := len(plain("/nowhere")) < 4<<10; small == (resp.Header.Get("Content-Encoding") != "") {
		t.Errorf("a page that is small (%t) has encoding %q", small, resp.Header.Get("Content-Encoding"))
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, nil)
	foreign := s.request("POST", "/profiles/choose", "id=theo")
	foreign.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	if status, body := s.do(foreign); status != 403 || !strings.Contains(body, "another site") {
		t.Errorf("a form of another site: %d", status)
	}
	foreign = s.request("PUT", "/api/ratings", `{}`)
	foreign.Header.Set("Origin", "https://elsewhere.example")
	if status, body := s.do(foreign); status != 403 || !strings.Contains(body, "403") {
		t.Errorf("a call from another site: %d %s", status, body)
	}
	for path, want := range map[string]int{
		"/titles/no-such-film": 404, "/nowhere": 404, "/api/nowhere": 404,
		"/api/titles/no-such-film": 404, "/watch/none": 404,
		"/browse?genre=Nonsense": 404, "/browse?page=x": 400, "/static/none": 404, "/api/search?q=" +
			strings.Repeat("x", 300): 400,
	} {
		if status, _ := s.get(path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	for _, path := range []string{
		"/search?q=%ff", "/api/search?q=%ff", "/titles/%ff", "/api/titles/%ff", "/browse?genre=%ff",
		"/api/home?profile=%ff", "/api/profiles?household=%ff",
	} { // more calls than it takes to open a circuit
		for range 30 {
			if status, _ := s.get(path); status != 400 {
				t.Fatalf("%s: status %d, want 400: it has text that is not UTF-8", path, status)
			}
		}
	}
	if status, _ := s.post("/profiles", url.Values{"key": {"k"}, "name": {"\xff"}}); status != 400 {
		t.Errorf("a name that is not UTF-8: status %d, want 400", status)
	}
	if status, body := s.do(s.request("POST", "/api/playback", `{`)); status != 400 ||
		!strings.Contains(body, "reading the body") {
		t.Errorf("half a body: %d %s", status, body)
	}
}

func TestWithoutProfileOneIsAskedFor(t *testing.T) {
	s := open(t, nil)
	s.client.Jar = nil
	if status, body := s.get("/"); status != 200 || !strings.Contains(body, "Choose a profile") {
		t.Errorf("home page without a profile: status %d, want 200 and a link to the profiles", status)
	}
	if _, body := s.post("/titles/fargo-1996/play", url.Values{"key": {"p1"}}); !strings.Contains(body,
		"Who is watching?") {
		t.Error("playing without a profile does not ask for one")
	}
}

func TestSettingsAreLive(t *testing.T) {
	s := open(t, nil)
	for name, value := range map[string]string{"web.home.genres": "Western", "web.home.row": "4"} {
		if err := s.Settings.Put(name, value); err != nil {
			t.Fatal(err)
		}
	}
	h := s.home()
	last := h.Rows[len(h.Rows)-1]
	if last.Name != "Western" || len(last.Cards) != 4 {
		t.Errorf("last row is %s with %d films", last.Name, len(last.Cards))
	}
}

func TestPagesAreAccessible(t *testing.T) {
	s := open(t, nil)
	s.start("fargo-1996")
	for _, path := range []string{
		"/", "/titles/fargo-1996", "/search", "/search?q=alien", "/search?q=qqqqqqqq", "/browse", "/browse?genre=Western",
		"/profiles", "/watch/s-fargo-1996", "/about/data", "/nowhere",
	} {
		t.Run(path, func(t *testing.T) {
			resp, err := s.client.Get(s.url + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
				t.Errorf("contentPolicy %q", csp)
			}
			doc, err := html.Parse(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			inspect(t, doc)
		})
	}
}

// A link whose text is not displayed on a narrow screen has no name there.
func TestNamesStayReadableOnNarrowScreens(t *testing.T) {
	at := open(t, nil)
	_, style := at.get("/static/style.css")
	_, narrow, ok := strings.Cut(style, "@media (max-width")
	if !ok || strings.Contains(narrow, "display: none") {
		t.Error("a rule for narrow screens has display: none, which hides the text from screen readers")
	}
}

// inspect checks what every page must have: language, title, labels, landmarks, and nothing that its policy forbids.
func inspect(t *testing.T, doc *html.Node) {
	t.Helper()
	attr := func(n *html.Node, key string) string {
		i := slices.IndexFunc(n.Attr, func(a html.Attribute) bool { return a.Key == key })
		if i < 0 {
			return ""
		}
		return n.Attr[i].Val
	}
	text := func(n *html.Node) string {
		var b strings.Builder
		for d := range n.Descendants() {
			if d.Type == html.TextNode {
				b.WriteString(strings.TrimSpace(d.Data))
			}
		}
		return b.String()
	}
	count, ids, labelled := map[string]int{}, map[string]int{}, map[string]bool{}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "label" {
			labelled[attr(n, "for")] = true
		}
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		count[n.Data]++
		if id := attr(n, "id"); id != "" {
			ids[id]++
		}
		if attr(n, "style") != "" || attr(n, "onclick") != "" || n.Data == "style" || n.Data == "script" &&
			attr(n, "src") == "" {
			t.Errorf("%s has what the contentPolicy forbids", n.Data)
		}
		switch {
		case n.Data == "html" && attr(n, "lang") == "":
			t.Error("no language")
		case n.Data == "title" && n.Namespace == "" && text(n) == "":
			t.Error("no title")
		case n.Data == "input" && attr(n, "type") != "hidden" && !labelled[attr(n, "id")]:
			t.Errorf("input %q has no label", attr(n, "name"))
		case (n.Data == "button" || n.Data == "a") && text(n) == "" && attr(n, "aria-label") == "":
			t.Errorf("%s %v has no text and no aria-label", n.Data, n.Attr)
		case n.Data == "svg" && attr(n, "aria-hidden") != "true":
			t.Error("an svg is not hidden from screen readers")
		case n.Data == "progress" && attr(n, "aria-label") == "":
			t.Error("a progress bar has no label")
		}
	}
	for _, one := range []string{"h1", "main", "header", "footer"} {
		if count[one] != 1 {
			t.Errorf("%d of %s", count[one], one)
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %s is used %d times", id, n)
		}
	}
}
