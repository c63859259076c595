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

// policy lets a page use what this service serves and nothing else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// looks are the templates and the files they refer to.
type looks struct {
	pages map[string]*template.Template
	stamp string // changes with the files, so that browsers may keep them for ever
}

func newLooks() (*looks, error) {
	l := &looks{pages: map[string]*template.Template{}}
	sum := sha256.New()
	for _, name := range []string{"style.css", "player.js", "icon.svg"} {
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("reading asset %s: %w", name, err)
		}
		_, _ = sum.Write(b)
	}
	l.stamp = hex.EncodeToString(sum.Sum(nil))[:12]
	// Drawing took 40 % of the CPU time of a page, and most pages show the same films. A poster is 2 KB.
	posters, err := lru.New[poster.Film, template.HTML](1024)
	if err != nil {
		return nil, fmt.Errorf("making room for posters: %w", err)
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
		"card":  func(t *catalogv1.Title) Card { return card(t) },
		"stamp": func() string { return l.stamp },
		"seq":   func() []int { return []int{1, 2, 3, 4, 5} },
		"stars": func(n int) string { return strings.Repeat("★", n) + strings.Repeat("☆", max(0, 5-n)) },
		"money": money,
		"count": count,
		"day":   day,
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

// money writes dollars the way people say them.
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

// count writes a number with thousands apart.
func count(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// day writes a date, 1972-03-15, the way people say it.
func day(date string) string {
	t, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return date
	}
	return t.Format("2 January 2006")
}

// static serves an asset. Its address has the stamp, so it never changes.
func (l *looks) static(w http.ResponseWriter, r *http.Request) {
	name := "assets/" + r.PathValue("file")
	if _, err := fs.Stat(assets, name); err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeFileFS(w, r, assets, name)
}

// view is a page about to be shown.
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

// page is a handler that leaves telling the user about errors to others.
type page func(http.ResponseWriter, *http.Request) error

// asPage shows the error of h, if any, as a page.
func (s *Server) asPage(h page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.showError(w, r, err)
		}
	})
}

// show renders a page as a whole before anything is sent: half a page is worse than an error.
func (s *Server) show(w http.ResponseWriter, r *http.Request, v view) error {
	v.Path = r.URL.Path
	if sc := oteltrace.SpanContextFromContext(r.Context()); sc.HasTraceID() {
		v.TraceID = sc.TraceID().String()
		v.TraceLink = strings.ReplaceAll(s.traceLink.Get(), "{id}", v.TraceID)
	}
	var b bytes.Buffer
	if err := s.looks.pages[v.Name].ExecuteTemplate(&b, "base", v); err != nil {
		return fmt.Errorf("rendering page %s: %w", v.Name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "private, no-cache")
	write(w, r, cmp.Or(v.Status, http.StatusOK), b.Bytes())
	return nil
}

// trouble is an error in words for the audience.
type trouble struct{ Heading, Sentence string }

// troubles says what each kind of error means to somebody who wants to see a film.
var troubles = map[errs.Kind]trouble{
	errs.NotFound:      {"Not in our programme", "We looked everywhere, but there is nothing at this address."},
	errs.Invalid:       {"That does not look right", "Something in this request does not fit. Go back and try again."},
	errs.Exists:        {"That exists already", "Go back and choose another name."},
	errs.Denied:        {"Not from over there", "This request came from another site, so we did not do it."},
	errs.Unavailable:   {"A short intermission", "This part of the house is closed for a moment. Try again soon."},
	errs.Timeout:       {"A short intermission", "This took longer than anybody should wait. Try again soon."},
	errs.Exhausted:     {"The house is full", "Many people want this at the moment. Try again soon."},
	errs.Unimplemented: {"A short intermission", "This part of the house is being rebuilt. Try again soon."},
}

func (s *Server) showError(w http.ResponseWriter, r *http.Request, err error) {
	kind := errs.KindOf(err)
	said, ok := troubles[kind]
	if !ok {
		said = trouble{"The film broke", "That was our fault, and we wrote it down. Try again."}
	}
	if kind.HTTP() >= 500 {
		s.log.WarnContext(r.Context(), "page failed", "path", r.URL.Path, "problem", err.Error())
	}
	errs.SetRetry(w.Header(), err)
	if err := s.show(w, r, view{Name: "error", Title: said.Heading, Viewer: viewerOf(r), Status: kind.HTTP(), Main: said}); err != nil {
		s.log.ErrorContext(r.Context(), "error page failed", "problem", err.Error())
		http.Error(w, said.Sentence, kind.HTTP())
	}
}

// refuse answers a request that reaches nobody: players get a problem, browsers a page.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		errs.WriteProblem(w, r, err)
		return
	}
	s.showError(w, r, err)
}
