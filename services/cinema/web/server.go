package web

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// Server answers pages and API. Make one with NewServer; it is safe for concurrent use.
type Server struct {
	peers  Peers
	log    *slog.Logger
	looks  *looks
	memory memory

	budget    *config.Value[time.Duration]
	genres    *config.Value[string]
	row       *config.Value[int64]
	speed     *config.Value[int64]
	traceLink *config.Value[string]
}

// NewServer returns a server that asks peers, and declares its settings in set.
func NewServer(peers Peers, set config.Set, log *slog.Logger) (*Server, error) {
	looks, err := newLooks()
	if err != nil {
		return nil, err
	}
	return &Server{
		peers: peers, log: log, looks: looks,
		budget: config.Duration(set, "web.home.budget", 500*time.Millisecond, config.Spec{
			Doc: "Time in which the home page must have its parts. What is late is replaced by its fallback.", Min: "50ms", Max: "10s",
		}),
		genres: config.String(set, "web.home.genres", "Drama,Comedy,Action,Adventure,Thriller/Suspense,Romantic Comedy", config.Spec{
			Doc: "Genres that have a row on the home page, in order, separated by commas. At most 12 are shown.",
		}),
		row: config.Int(set, "web.home.row", 12, config.Spec{Doc: "Films in a row of the home page.", Min: "4", Max: "24"}),
		speed: config.Int(set, "web.player.speed", 60, config.Spec{
			Doc: "Seconds of film that pass in a second of watching: there is no film, only its progress.", Min: "1", Max: "600",
		}),
		traceLink: config.String(set, "web.trace.link", "http://localhost:8081/traces/{id}", config.Spec{
			Doc: "Address of a trace, with {id} for its id, shown at the foot of each page. Empty: no link.",
		}),
	}, nil
}

// Handler returns the routes, safe against requests that other sites make in the user's name.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
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
		mux.Handle(pattern, s.asPage(h))
	}
	mux.HandleFunc("GET /static/{file}", s.looks.static)
	s.api(mux)
	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, errs.Errorf(errs.Denied, "this request came from another site"))
	}))
	return http.MaxBytesHandler(csrf.Handler(s.readable(mux)), 64<<10)
}

// readable refuses what is no text. The strings of a contract are UTF-8: a call with others fails before it is sent, and
// would count as a failure of the service that it is for, until that one's circuit opens.
func (s *Server) readable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := r.ParseForm()
		valid := utf8.ValidString(r.URL.Path)
		for _, values := range r.Form {
			valid = valid && utf8.ValidString(strings.Join(values, ""))
		}
		switch {
		case err != nil:
			s.refuse(w, r, errs.Errorf(errs.Invalid, "reading the request: %w", err))
		case !valid:
			s.refuse(w, r, errs.Errorf(errs.Invalid, "reading the request: it has text that is not UTF-8"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// memory is what was seen last, for when the catalog does not answer. The zero value is empty.
type memory struct {
	mu      sync.Mutex
	shelves []*catalogv1.Shelf
	titles  map[string]*catalogv1.Title // id -> film, at most maxRemembered
}

// maxRemembered bounds the memory to about two megabytes.
const maxRemembered = 4096

func (m *memory) learn(titles ...*catalogv1.Title) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learnLocked(titles)
}

func (m *memory) learnLocked(titles []*catalogv1.Title) {
	if m.titles == nil {
		m.titles = map[string]*catalogv1.Title{}
	}
	for _, t := range titles {
		if len(m.titles) < maxRemembered || m.titles[t.Id] != nil {
			m.titles[t.Id] = t
		}
	}
}

func (m *memory) learnShelves(shelves []*catalogv1.Shelf) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shelves = shelves
	for _, shelf := range shelves {
		m.learnLocked(shelf.Titles)
	}
}

func (m *memory) lastShelves() []*catalogv1.Shelf {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shelves
}

// recall returns those of the films that were seen before.
func (m *memory) recall(ids []string) []*catalogv1.Title {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*catalogv1.Title
	for _, id := range ids {
		if t := m.titles[id]; t != nil {
			out = append(out, t)
		}
	}
	return out
}

// split returns the entries of a comma separated setting, at most most.
func split(list string, most int) []string {
	var out []string
	for v := range strings.SplitSeq(list, ",") {
		if v = strings.TrimSpace(v); v != "" && len(out) < most && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}
