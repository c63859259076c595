package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	"bijou.dev/services/cinema/web/poster"

	lru "github.com/hashicorp/golang-lru/v2"
	oteltrace "go.opentelemetry.io/otel/trace"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed assets
var assets embed.FS

// contentPolicy allows a page to load only what this service serves.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// theme has the templates, and the version of the files that they use.
type theme struct {
	pages   map[string]*template.Template
	version string // a hash of the files. It is in their URLs, so that browsers can cache them without a time limit
}

func newTheme() (*theme, error) {
	l := &theme{pages: map[string]*template.Template{}}
	sum := sha256.New()
	for _, name := range []string{"style.css", "player.js", "icon.svg"} {
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("reading asset %s: %w", name, err)
		}
		_, _ = sum.Write(b)
	}
	l.version = hex.EncodeToString(sum.Sum(nil))[:12]
	// Drawing took 40 % of the CPU time of a page, and most pages show the same films. A poster is 2 KB.
	posters, err := lru.New[poster.Film, template.HTML](1024)
	if err != nil {
		return nil, fmt.Errorf("creating the cache of posters: %w", err)
	}
	base, err := template.New("").Funcs(template.FuncMap{
		"poster": func(c Card) template.HTML {
			f := poster.Film{ID: c.ID, Name: c.Name, Genre: c.Genre, Year: c.Year}
			drawn, ok := posters.Get(f)
			if !ok {
				drawn = poster.Poster(f)
				posters.Add(f, drawn)
			}
			return drawn
		},
		"banner": func(c Card) template.HTML {
			return poster.Banner(poster.Film{ID: c.ID, Name: c.Name, Genre: c.Genre, Year: c.Year})
		},
		"card":    func(t *catalogv1.Title) Card { return card(t) },
		"version": func() string { return l.version },
		"seq":     func() []int { return []int{1, 2, 3, 4, 5} },
		"stars":   func(n int) string { return strings.Repeat("★", n) + strings.Repeat("☆", max(0, 5-n)) },
		"money":   money,
		"count":   count,
		"day":     day,
	}).ParseFS(templates, "templates/base.html", "templates/card.html")
	if err != nil {
		return nil, fmt.Errorf("parsing the base template: %w", err)
	}
	for _, name := range []string{"home", "title", "search", "browse", "report", "profiles", "watch", "error"} {
		clone, err := base.Clone()
		if err != nil {
			return nil, fmt.Errorf("cloning the base template: %w", err)
		}
		if l.pages[name], err = clone.ParseFS(templates, "templates/"+name+".html"); err != nil {
			return nil, fmt.Errorf("parsing template %s: %w", name, err)
		}
	}
	return l, nil
}

// money formats an amount of dollars.
func money(v *int64) string {
	switch {
	case v == nil:
		return ""
	case *v >= 1_000_000:
		return fmt.Sprintf("$%.1f million", float64(*v)/1e6)
	case *v < 1000:
		return fmt.Sprintf("$%d", *v)
	}
	return fmt.Sprintf("$%d,%03d", *v/1000, *v%1000)
}

// count formats a number with a comma between thousands.
func count(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// day formats a date such as 1972-03-15 as "15 March 1972".
func day(date string) string {
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return date
	}
	return t.Format("2 January 2006")
}

// static serves an asset. Its URL has the version, so browsers can cache it without a time limit.
func (l *theme) static(w http.ResponseWriter, r *http.Request) {
	name := "assets/" + r.PathValue("file")
	if _, err := fs.Stat(assets, name); err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeFileFS(w, r, assets, name)
}

// view is the data of a page.
type view struct {
	Name   string // template
	Title  string
	Viewer *Viewer
	Query  string
	Status int // zero: 200
	Main   any

	Path      string
	TraceID   string
	TraceLink string
}

// page is a handler that returns its error, for asPage to show.
type page func(http.ResponseWriter, *http.Request) error

// asPage returns a handler that shows an error of h as a page.
func (s *Server) asPage(h page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.showError(w, r, err)
		}
	})
}

// show renders the whole page before it sends anything, so that an error does not leave half a page.
func (s *Server) show(w http.ResponseWriter, r *http.Request, v view) error {
	v.Path = r.URL.Path
	if sc := oteltrace.SpanContextFromContext(r.Context()); sc.HasTraceID() {
		v.TraceID = sc.TraceID().String()
		v.TraceLink = strings.ReplaceAll(s.traceLink.Get(), "{id}", v.TraceID)
	}
	var b bytes.Buffer
	if err := s.theme.pages[v.Name].ExecuteTemplate(&b, "base", v); err != nil {
		return fmt.Errorf("rendering page %s: %w", v.Name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "private, no-cache")
	write(w, r, cmp.Or(v.Status, http.StatusOK), b.Bytes())
	return nil
}

// errorText is what a user sees of an error.
type errorText struct{ Heading, Sentence string }

// errorTexts has a text for each kind of error that a user can cause or wait for.
var errorTexts = map[errs.Kind]errorText{
	errs.NotFound: {"Page not found", "There is no page or film at this address."},
	errs.Invalid:  {"Wrong input", "A value in this request is not allowed. Go back and try again."},
	errs.Exists:   {"It exists already", "Go back and choose another name."},
	errs.Denied:   {"Not allowed", "This request came from another site, so it was not carried out."},
	errs.Unavailable: {
		"Temporarily unavailable",
		"This part of the cinema is not available at the moment. Try again soon.",
	},
	errs.Timeout:       {"Temporarily unavailable", "This took too long. Try again soon."},
	errs.Exhausted:     {"Too many requests", "Many people use the cinema at the moment. Try again soon."},
	errs.Unimplemented: {"Temporarily unavailable", "This part of the cinema is not available yet. Try again later."},
}

// textOf returns the text for a kind of error.
func textOf(kind errs.Kind) errorText {
	if shown, ok := errorTexts[kind]; ok {
		return shown
	}
	return errorText{"Something went wrong", "This was our fault, and it has been logged. Try again."}
}

func (s *Server) showError(w http.ResponseWriter, r *http.Request, err error) {
	kind := errs.KindOf(err)
	shown := textOf(kind)
	if kind.HTTP() >= 500 {
		s.log.WarnContext(r.Context(), "page failed", "path", r.URL.Path, "error", err.Error())
	}
	errs.SetRetry(w.Header(), err)
	v := view{Name: "error", Title: shown.Heading, Viewer: viewerOf(r), Status: kind.HTTP(), Main: shown}
	if err := s.show(w, r, v); err != nil {
		s.log.ErrorContext(r.Context(), "error page failed", "error", err.Error())
		http.Error(w, shown.Sentence, kind.HTTP())
	}
}

// writeError answers a request that is refused before a handler is called: with a problem for the API, with a page for
// browsers.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		errs.WriteProblem(w, r, err)
		return
	}
	s.showError(w, r, err)
}
