package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	nethtml "golang.org/x/net/html"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/services/cinema/cinematest"
	"bijou.dev/services/cinema/web"
)

// site is the service web on a stack of all other services, and a browser in which the profile ingrid is chosen.
type site struct {
	*cinematest.Stack
	t       testing.TB
	handler http.Handler
	client  *http.Client
}

func open(t testing.TB, settings map[string]string) *site {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Stack: cinematest.Full(t, settings), t: t}
	s.client = &http.Client{Jar: jar, Transport: s}
	s.restart()
	s.post("/profiles/choose", url.Values{"id": {"ingrid"}})
	return s
}

// restart replaces web by an instance that has not seen any film.
func (s *site) restart() {
	s.t.Helper()
	peers, err := web.Dial(s.Dial)
	if err != nil {
		s.t.Fatal(err)
	}
	server, err := web.NewServer(peers, s.Settings, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.handler = server.Handler()
}

// RoundTrip calls the handler without a network.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.Host, in.RequestURI = r.URL.Host, r.URL.RequestURI()
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, in)
	resp := recorder.Result()
	resp.Request = r
	return resp, nil
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
	r, err := http.NewRequest(method, "http://cinema"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.HasPrefix(path, "/api/") {
		r.Header.Set("Content-Type", "application/json")
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
	s.call("GET", "/api/home?profile=ingrid", "", &h)
	return h
}

// kinds returns the kinds of the rows in order, each once.
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
	s.call("POST", "/api/playback", `{"session": "s-`+title+`", "profile": "ingrid", "title": "`+title+`"}`, nil)
	s.call("POST", "/api/playback/s-"+title+"/heartbeat", `{"sequence": 1, "position": 900}`, nil)
}

// call sends a request to the API and decodes the response into out, unless out is nil. The status must be 200.
func (s *site) call(method, path, body string, out any) {
	s.t.Helper()
	status, got := s.do(s.request(method, path, body))
	if status != http.StatusOK {
		s.t.Fatalf("%s %s %s: status %d, want 200: %s", method, path, body, status, got)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal([]byte(got), out); err != nil {
		s.t.Fatalf("%s %s: %v: %s", method, path, err, got)
	}
}

// assertPage gets a page and checks its status and that it contains each of the texts.
func (s *site) assertPage(path string, want int, texts ...string) {
	s.t.Helper()
	status, body := s.get(path)
	s.assertBody("GET "+path, status, want, body, texts...)
}

func (s *site) assertBody(what string, status, want int, body string, texts ...string) {
	s.t.Helper()
	if status != want {
		s.t.Errorf("%s: status %d, want %d", what, status, want)
	}
	for _, text := range texts {
		if !strings.Contains(body, text) {
			s.t.Errorf("%s: the page does not contain %q:\n%.2000s", what, text, mainOf(body))
		}
	}
}

// mainOf returns the main part of a page without its pictures, for messages of tests.
func mainOf(page string) string {
	_, main, _ := strings.Cut(page, "<main")
	return pictures.ReplaceAllString(main, "")
}

var pictures = regexp.MustCompile(`(?s)<svg.*?</svg>`)

// A user without JavaScript creates a profile, searches, rates, plays, stops and resumes.
func TestSiteWorksWithoutJavaScript(t *testing.T) {
	s := open(t, nil)
	submit := func(path string, form url.Values, texts ...string) {
		t.Helper()
		status, body := s.post(path, form)
		s.assertBody("POST "+path, status, http.StatusOK, body, texts...)
	}
	submit("/profiles", url.Values{"key": {"greta-1"}, "name": {"Greta & Co"}}, "watch, Greta &amp; Co?")
	s.assertPage("/search?q=frago", http.StatusOK, `href="/titles/fargo-1996"`, "after correcting the spelling")
	submit("/titles/fargo-1996/rate", url.Values{"key": {"k1"}, "stars": {"4"}}, "You gave it 4 of 5")
	submit("/titles/fargo-1996/play", url.Values{"key": {"p1"}}, "0:00:00", `name="sequence" value="1"`)
	submit("/watch/p1", url.Values{"sequence": {"1"}, "position": {"600"}}, "0:10:00", `name="sequence" value="2"`)
	submit("/watch/p1", url.Values{"sequence": {"2"}, "position": {"900"}, "action": {"stop"}}, "Resume, 72 min left")
	s.assertPage("/", http.StatusOK, "Continue watching", "72 min left")
	submit("/titles/fargo-1996/play", url.Values{"key": {"p2"}}, "0:15:00")
}

func TestFormsRefuseWrongValues(t *testing.T) {
	s := open(t, nil)
	s.start("fargo-1996")
	for name, c := range map[string]struct {
		path string
		form url.Values
		want int
	}{
		"nine stars":           {"/titles/fargo-1996/rate", url.Values{"key": {"k"}, "stars": {"9"}}, 400},
		"stars in letters":     {"/titles/fargo-1996/rate", url.Values{"key": {"k"}, "stars": {"four"}}, 400},
		"stars of 2^32 + 1":    {"/titles/fargo-1996/rate", url.Values{"key": {"k"}, "stars": {"4294967297"}}, 400},
		"rating without a key": {"/titles/fargo-1996/rate", url.Values{"stars": {"3"}}, 200}, // the key is "-3"
		"key of 200 bytes": {
			"/titles/fargo-1996/rate", url.Values{"key": {strings.Repeat("k", 200)}, "stars": {"3"}}, 400,
		},
		"playing without a key":   {"/titles/fargo-1996/play", nil, 400},
		"playing an unknown film": {"/titles/none/play", url.Values{"key": {"p"}}, 404},
		"no sequence":             {"/watch/s-fargo-1996", url.Values{"position": {"1"}}, 400},
		"sequence 0":              {"/watch/s-fargo-1996", url.Values{"sequence": {"0"}, "position": {"1"}}, 400},
		"no position":             {"/watch/s-fargo-1996", url.Values{"sequence": {"2"}}, 400},
		"unknown session":         {"/watch/none", url.Values{"sequence": {"2"}, "position": {"1"}}, 404},
		"profile without a name":  {"/profiles", url.Values{"key": {"k"}, "name": {" "}}, 400},
		"profile with a long name": {
			"/profiles", url.Values{"key": {"k"}, "name": {strings.Repeat("n", 41)}}, 400,
		},
		"profile with the id of another": {"/profiles", url.Values{"key": {"theo"}, "name": {"Thea"}}, 409},
		"name that is not UTF-8":         {"/profiles", url.Values{"key": {"k"}, "name": {"\xff"}}, 400},
		"choosing an unknown profile":    {"/profiles/choose", url.Values{"id": {"unknown"}}, 404},
		"form of 64 KiB":                 {"/profiles", url.Values{"name": {strings.Repeat("n", 64<<10)}}, 400},
	} {
		if status, _ := s.post(c.path, c.form); status != c.want {
			t.Errorf("%s: POST %s: status %d, want %d", name, c.path, status, c.want)
		}
	}
}

func TestSmallAmountsAreShownInFull(t *testing.T) {
	s := open(t, nil)
	var found struct{ Hits []web.Card }
	s.call("GET", "/api/search?q=the+mongol+king", "", &found)
	if len(found.Hits) == 0 {
		t.Fatal("the film is not found")
	}
	s.assertPage("/titles/"+found.Hits[0].ID, http.StatusOK, "$900<")
}

func TestNumbersAndDatesAreFormatted(t *testing.T) {
	s := open(t, nil)
	s.assertPage("/titles/the-godfather-1972", http.StatusOK, "/10, 411,088 votes",
		`<time datetime="1972-03-15">15 March 1972</time>`)
	s.assertPage("/titles/gone-with-the-wind", http.StatusOK, "Year not known") // it has an impossible date
	s.assertPage("/browse", http.StatusOK, "3,200 films, by title")
	s.assertPage("/browse?genre=Drama", http.StatusOK, "789 films, by title")
	s.assertPage("/about/data", http.StatusOK, "Of 3,201 records we show 3,200")
}

// The button "More films" leads through all films of a genre, each once.
func TestBrowsePagesShowEveryFilmOnce(t *testing.T) {
	s := open(t, nil)
	next, seen, pages := "/browse?genre=Western", map[string]int{}, 0
	for next != "" {
		status, body := s.get(next)
		if pages++; status != http.StatusOK || pages > 100 {
			t.Fatalf("page %d, %s: status %d", pages, next, status)
		}
		for _, m := range regexp.MustCompile(`href="/titles/([^"]+)"`).FindAllStringSubmatch(body, -1) {
			seen[m[1]]++
		}
		m := regexp.MustCompile(`href="([^"]+)" rel="next"`).FindStringSubmatch(body)
		if next = ""; m != nil {
			next = html.UnescapeString(m[1])
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("film %s is on %d pages", id, n)
		}
	}
	if len(seen) != 36 {
		t.Errorf("%d pages have %d films, want 36", pages, len(seen))
	}
	s.assertPage("/browse?genre=Drama", http.StatusOK, `rel="next"`)
	s.assertPage("/browse?genre=Drama&page=768", http.StatusOK, `href="/titles/`)
	s.assertPage("/browse?genre=Drama&page=790", http.StatusBadRequest, "Wrong input")
}

func TestSimilarFilmsAreOfTheDirectorElseOfTheGenre(t *testing.T) {
	s := open(t, nil)
	s.assertPage("/titles/fargo-1996", http.StatusOK, "More by Joel Coen")
	s.assertPage("/titles/gone-with-the-wind", http.StatusOK, "More like this")
}

func TestProgressAfterTheEndIsTheEnd(t *testing.T) {
	s := open(t, nil)
	s.start("the-matrix-1999")
	status, page := s.post("/watch/s-the-matrix-1999", url.Values{"sequence": {"2"}, "position": {"10000000000"}})
	s.assertBody("a position after the end", status, http.StatusOK, page, `data-position="8160"`)
}

func TestLargePagesAreCompressed(t *testing.T) {
	s := open(t, nil)
	for accept, want := range map[string]bool{
		"gzip": true, "br, GZIP;q=0.8": true, "*": true, "identity": false, "gzip;q=0": false, "br;q=1, gzip; q=0, *": false,
	} {
		r := s.request("GET", "/about/data", "")
		r.Header["Accept-Encoding"] = []string{accept}
		resp, err := s.client.Do(r.WithContext(t.Context()))
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
	r := s.request("GET", "/unknown", "")
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := s.client.Do(r.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if size := resp.ContentLength; size >= 4<<10 || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("a page of %d bytes has encoding %q, want less than 4096 bytes and no encoding", size,
			resp.Header.Get("Content-Encoding"))
	}
}

func TestRequestsFromAnotherSiteAreRefused(t *testing.T) {
	s := open(t, nil)
	form := s.request("POST", "/profiles/choose", "id=theo")
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	form.Header.Set("Sec-Fetch-Site", "cross-site")
	status, body := s.do(form)
	s.assertBody("a form of another site", status, http.StatusForbidden, body, "came from another site")
	call := s.request("PUT", "/api/ratings", `{}`)
	call.Header.Set("Origin", "https://other.example")
	status, body = s.do(call)
	s.assertBody("a call from another site", status, http.StatusForbidden, body, `"status":403`)
	own := s.request("POST", "/profiles/choose", "id=theo")
	own.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	own.Header.Set("Origin", "http://cinema")
	if status, _ = s.do(own); status != http.StatusOK {
		t.Errorf("a form of this site: status %d, want 200", status)
	}
}

func TestUnknownPagesAreNotFound(t *testing.T) {
	s := open(t, nil)
	for _, path := range []string{
		"/titles/no-such-film", "/unknown", "/watch/none", "/browse?genre=Nonsense", "/static/none",
	} {
		if status, _ := s.get(path); status != http.StatusNotFound {
			t.Errorf("GET %s: status %d, want 404", path, status)
		}
	}
}

// A call with text that is not UTF-8 would fail before it is sent, and open the circuit of the service.
func TestTextThatIsNotUTF8IsRefusedAndOpensNoCircuit(t *testing.T) {
	s := open(t, nil)
	for _, path := range []string{
		"/search?q=%ff", "/api/search?q=%ff", "/titles/%ff", "/api/titles/%ff", "/browse?genre=%ff",
		"/api/home?profile=%ff", "/api/profiles?household=%ff",
	} {
		for range 30 { // more than opens a circuit
			if status, _ := s.get(path); status != http.StatusBadRequest {
				t.Fatalf("GET %s: status %d, want 400", path, status)
			}
		}
	}
	for _, c := range s.Circuits.Snapshots() {
		if c.GetState() != circuitsv1.State_STATE_CLOSED {
			t.Errorf("circuit %s is %v, want closed", c.GetName(), c.GetState())
		}
	}
}

func TestPlayingNeedsAProfile(t *testing.T) {
	s := open(t, nil)
	s.client.Jar = nil
	s.assertPage("/", http.StatusOK, "Choose a profile")
	s.assertPage("/titles/fargo-1996", http.StatusOK, "Choose a profile to play it")
	for _, action := range []string{"play", "rate"} {
		status, body := s.post("/titles/fargo-1996/"+action, url.Values{"key": {"p1"}, "stars": {"1"}})
		s.assertBody(action+" without a profile", status, http.StatusOK, body, "<h1>Who is watching?</h1>")
	}
}

func TestCookiesThatAreNotOfAProfileAreIgnored(t *testing.T) {
	s := open(t, nil)
	s.client.Jar = nil
	for name, value := range map[string]string{
		"empty": "", "without an id": "~Ingrid", "wrong escape": "ingrid~%zz", "long id": strings.Repeat("i", 65) + "~I",
		"long name": "ingrid~" + strings.Repeat("n", 161), "id of no profile": "deleted~Deleted", "not an id": "A B~C",
	} {
		r := s.request("GET", "/", "")
		r.AddCookie(&http.Cookie{Name: "bijou_profile", Value: value})
		status, body := s.do(r)
		s.assertBody("a cookie that is "+name, status, http.StatusOK, body, "Choose a profile")
	}
}

func TestCookieIsSecureBehindHTTPS(t *testing.T) {
	s := open(t, nil)
	for proto, want := range map[string]bool{"https": true, "http": false, "": false} {
		r := s.request("POST", "/profiles/choose", "id=theo")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("X-Forwarded-Proto", proto)
		resp, err := s.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		cookies := resp.Cookies()
		if len(cookies) != 1 {
			t.Fatalf("X-Forwarded-Proto %q: cookies are %v, want one", proto, cookies)
		}
		if c := cookies[0]; c.Secure != want || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("X-Forwarded-Proto %q: the cookie is %v; want HttpOnly, SameSite=Lax and Secure = %t", proto, c, want)
		}
	}
}

func TestSettingsTakeEffectWithoutARestart(t *testing.T) {
	s := open(t, nil)
	for name, value := range map[string]string{"web.home.genres": " Western,,Horror, Western", "web.home.row": "4"} {
		if err := s.Settings.Put(name, value); err != nil {
			t.Fatal(err)
		}
	}
	var genres []string
	for _, row := range s.home().Rows {
		if row.Kind == "genre" {
			genres = append(genres, row.Name)
		}
		if len(row.Cards) != 4 {
			t.Errorf("row %q has %d films, want 4", row.Name, len(row.Cards))
		}
	}
	if diff := cmp.Diff([]string{"Western", "Horror"}, genres); diff != "" {
		t.Errorf("genres (-want +got):\n%s", diff)
	}
}

func TestHomePageShowsAtMostTwelveGenres(t *testing.T) {
	genres := "Action,Adventure,Black Comedy,Comedy,Concert/Performance,Documentary,Drama,Horror,Musical," +
		"Romantic Comedy,Thriller/Suspense,Western,Unknown 1,Unknown 2"
	s := open(t, map[string]string{"web.home.genres": genres})
	n := 0
	for _, row := range s.home().Rows {
		if row.Kind == "genre" {
			n++
		}
	}
	if n != 12 {
		t.Errorf("the home page has rows of %d genres, want 12", n)
	}
}

func TestPagesLinkTheirTrace(t *testing.T) {
	s := open(t, nil)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{1}})
	id := span.TraceID().String()
	for link, want := range map[string]string{
		"http://localhost:8081/traces/{id}": `<a href="http://localhost:8081/traces/` + id + `" rel="noopener">trace ` + id,
		"":                                  `<span class="trace">trace ` + id + `</span>`,
		"javascript:alert('{id}')":          `<a href="#ZgotmplZ"`, // html/template does not write such a URL
	} {
		if err := s.Settings.Put("web.trace.link", link); err != nil {
			t.Fatal(err)
		}
		r := s.request("GET", "/search", "")
		recorder := httptest.NewRecorder()
		s.handler.ServeHTTP(recorder, r.WithContext(trace.ContextWithSpanContext(t.Context(), span)))
		if !strings.Contains(recorder.Body.String(), want) {
			_, foot, _ := strings.Cut(recorder.Body.String(), "<footer")
			t.Errorf("with web.trace.link %q the footer lacks %q: %s", link, want, foot)
		}
	}
}

func TestAssetsAreCachedAndPagesAreNot(t *testing.T) {
	s := open(t, nil)
	_, page := s.get("/search")
	assets := regexp.MustCompile(`(?:href|src)="(/static/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(assets) < 2 {
		t.Fatalf("the page has the assets %v, want a style sheet and an icon", assets)
	}
	for _, a := range assets {
		resp, err := s.RoundTrip(s.request("GET", a[1], ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Cache-Control"); resp.StatusCode != http.StatusOK || !strings.Contains(got, "immutable") ||
			!strings.Contains(a[1], "?v=") {
			t.Errorf("GET %s: status %d, Cache-Control %q; want 200, immutable, and a version in the URL", a[1],
				resp.StatusCode, got)
		}
	}
	for _, path := range []string{"/", "/unknown", "/titles/fargo-1996"} {
		resp, err := s.RoundTrip(s.request("GET", path, ""))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		}
		for name, value := range want {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, value)
			}
		}
	}
}

// Readers and writers use one server at the same time. The race detector checks the cache of films and the circuits.
func TestConcurrentUse(t *testing.T) {
	s := open(t, nil)
	s.client.Jar = nil
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, path := range []string{"/", "/titles/fargo-1996", "/search?q=star", "/browse", "/api/home?profile=ingrid"} {
				if status, _ := s.get(path); status != http.StatusOK {
					t.Errorf("GET %s: status %d, want 200", path, status)
				}
			}
			rating := fmt.Sprintf(`{"key":"k%d","profile":"p%d","title":"fargo-1996","stars":%d}`, i, i, 1+i%5)
			if status, body := s.do(s.request("PUT", "/api/ratings", rating)); status != http.StatusOK {
				t.Errorf("rating %s: status %d: %s", rating, status, body)
			}
		})
	}
	wg.Wait()
	s.assertPage("/titles/fargo-1996", http.StatusOK, "/5, 8 ratings")
}

func TestPagesAreAccessible(t *testing.T) {
	s := open(t, nil)
	s.start("fargo-1996")
	for _, path := range []string{
		"/", "/titles/fargo-1996", "/search", "/search?q=alien", "/search?q=qqqqqqqq", "/browse", "/browse?genre=Western",
		"/profiles", "/watch/s-fargo-1996", "/about/data", "/unknown",
	} {
		t.Run(path, func(t *testing.T) {
			resp, err := s.client.Get("http://cinema" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
				t.Errorf("Content-Security-Policy is %q, want default-src 'none'", csp)
			}
			doc, err := nethtml.Parse(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			inspect(t, doc)
		})
	}
}

// If the text of a link has display: none on a narrow screen, screen readers have no name for the link.
func TestLinksHaveNamesOnNarrowScreens(t *testing.T) {
	s := open(t, nil)
	_, style := s.get("/static/style.css")
	_, narrow, ok := strings.Cut(style, "@media (max-width")
	if !ok || strings.Contains(narrow, "display: none") {
		t.Error("a rule for narrow screens has display: none, which hides the text from screen readers")
	}
}

// inspect checks what every page must have: language, title, labels, landmarks, and nothing that its policy forbids.
func inspect(t *testing.T, doc *nethtml.Node) {
	t.Helper()
	attr := func(n *nethtml.Node, key string) string {
		i := slices.IndexFunc(n.Attr, func(a nethtml.Attribute) bool { return a.Key == key })
		if i < 0 {
			return ""
		}
		return n.Attr[i].Val
	}
	text := func(n *nethtml.Node) string {
		var b strings.Builder
		for d := range n.Descendants() {
			if d.Type == nethtml.TextNode {
				b.WriteString(strings.TrimSpace(d.Data))
			}
		}
		return b.String()
	}
	count, ids, labelled := map[string]int{}, map[string]int{}, map[string]bool{}
	for n := range doc.Descendants() {
		if n.Type == nethtml.ElementNode && n.Data == "label" {
			labelled[attr(n, "for")] = true
		}
	}
	for n := range doc.Descendants() {
		if n.Type != nethtml.ElementNode {
			continue
		}
		count[n.Data]++
		if id := attr(n, "id"); id != "" {
			ids[id]++
		}
		if attr(n, "style") != "" || attr(n, "onclick") != "" || n.Data == "style" || n.Data == "script" &&
			attr(n, "src") == "" {
			t.Errorf("element %s has an attribute or content that the content security policy forbids", n.Data)
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
	for _, name := range []string{"h1", "main", "header", "footer"} {
		if count[name] != 1 {
			t.Errorf("the page has %d elements %s, want 1", count[name], name)
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %s is used %d times", id, n)
		}
	}
}
