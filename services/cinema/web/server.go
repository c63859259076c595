package web

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// Server serves the pages and the API. Make one with NewServer; it is safe for concurrent use.
type Server struct {
	peers Peers
	log   *slog.Logger
	theme *theme
	seen  lastSeen

	budget    *config.Value[time.Duration]
	genres    *config.Value[string]
	row       *config.Value[int64]
	speed     *config.Value[int64]
	traceLink *config.Value[string]
}

// NewServer returns a server that calls peers, and declares its settings in set.
func NewServer(peers Peers, set config.Set, log *slog.Logger) (*Server, error) {
	theme, err := newTheme()
	if err != nil {
		return nil, err
	}
	return &Server{
		peers: peers, log: log, theme: theme,
		budget: config.Duration(set, "web.home.budget", 500*time.Millisecond, config.Spec{
			Doc: "Time for all parts of the home page. Parts that are late are replaced by fallbacks.", Min: "50ms", Max: "10s",
		}),
		genres: config.String(set, "web.home.genres", "Drama,Comedy,Action,Adventure,Thriller/Suspense,Romantic Comedy",
			config.Spec{
				Doc: "Genres that have a row on the home page, in order, separated by commas. At most 12 are shown.",
			}),
		row: config.Int(set, "web.home.row", 12, config.Spec{Doc: "Films in a row of the home page.", Min: "4", Max: "24"}),
		speed: config.Int(set, "web.player.speed", 60, config.Spec{
			Doc: "Seconds of film that pass in a second of watching. There is no video, only its progress.",
			Min: "1", Max: "600",
		}),
		traceLink: config.String(set, "web.trace.link", "http://localhost:8081/traces/{id}", config.Spec{
			Doc: "URL of a trace, where {id} stands for its id. It is linked at the bottom of each page. Empty: no link.",
		}),
	}, nil
}

// maxForm is the largest body of a form in bytes. The API has a limit of its own, see [httpapi.MaxBody].
const maxForm = 64 << 10

// Handler returns the routes. Requests that another site makes with the browser of a user are refused.
func (s *Server) Handler() http.Handler {
	pages := http.NewServeMux()
	for pattern, h := range map[string]page{
		"GET /{$}":               s.showHome,
		"GET /titles/{id}":       s.showTitle,
		"GET /search":            s.showSearch,
		"GET /browse":            s.showBrowse,
		"GET /about/data":        s.showReport,
		"GET /profiles":          s.showProfiles,
		"POST /profiles":         s.createProfile,
		"POST /profiles/choose":  s.chooseProfile,
		"POST /titles/{id}/rate": s.rateTitle,
		"POST /titles/{id}/play": s.playTitle,
		"GET /watch/{session}":   s.showWatch,
		"POST /watch/{session}":  s.moveWatch,
		"/":                      s.notFound,
	} {
		pages.Handle(pattern, s.asPage(h))
	}
	pages.HandleFunc("GET /static/{file}", s.theme.static)
	mux := http.NewServeMux()
	mux.Handle("/", http.MaxBytesHandler(s.requireUTF8(pages, parseForm), maxForm))
	mux.Handle("/api/", s.requireUTF8(s.api(), parseQuery))
	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeError(w, r, errs.Errorf(errs.Denied, "this request came from another site"))
	}))
	return csrf.Handler(mux)
}

// parseForm returns the values of the query and of a form in the body.
func parseForm(r *http.Request) (url.Values, error) {
	err := r.ParseForm()
	return r.Form, err
}

// parseQuery returns the values of the query. It does not read the body, which is JSON.
func parseQuery(r *http.Request) (url.Values, error) { return url.ParseQuery(r.URL.RawQuery) }

// requireUTF8 refuses requests with a path or values that are not UTF-8. Strings of a protobuf message must be UTF-8: a
// call with others fails before it is sent, counts as a failure of the called service, and opens its circuit.
func (s *Server) requireUTF8(next http.Handler, parse func(*http.Request) (url.Values, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		form, err := parse(r)
		valid := utf8.ValidString(r.URL.Path)
		for _, values := range form {
			valid = valid && utf8.ValidString(strings.Join(values, ""))
		}
		switch {
		case err != nil:
			s.writeError(w, r, errs.Errorf(errs.Invalid, "reading the request: %w", err))
		case !valid:
			s.writeError(w, r, errs.Errorf(errs.Invalid, "reading the request: it has text that is not UTF-8"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// lastSeen keeps films that the catalog returned. They are shown when the catalog does not answer. The zero value is
// empty.
type lastSeen struct {
	mu      sync.Mutex
	shelves []*catalogv1.Shelf
	titles  map[string]*catalogv1.Title // id -> film, at most maxSeen
}

// maxSeen limits lastSeen to about two megabytes.
const maxSeen = 4096

func (l *lastSeen) add(titles ...*catalogv1.Title) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(titles)
}

func (l *lastSeen) addLocked(titles []*catalogv1.Title) {
	if l.titles == nil {
		l.titles = map[string]*catalogv1.Title{}
	}
	for _, t := range titles {
		if len(l.titles) < maxSeen || l.titles[t.Id] != nil {
			l.titles[t.Id] = t
		}
	}
}

func (l *lastSeen) setShelves(shelves []*catalogv1.Shelf) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shelves = shelves
	for _, shelf := range shelves {
		l.addLocked(shelf.Titles)
	}
}

func (l *lastSeen) allShelves() []*catalogv1.Shelf {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shelves
}

// get returns those of the films that the catalog returned before.
func (l *lastSeen) get(ids []string) []*catalogv1.Title {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*catalogv1.Title
	for _, id := range ids {
		if t := l.titles[id]; t != nil {
			out = append(out, t)
		}
	}
	return out
}

// split returns the distinct entries of a comma-separated list, at most most.
func split(list string, most int) []string {
	var out []string
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v != "" && len(out) < most && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}
