package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"bijou.dev/platform/errs"
)

// dist is the front end as ui/build.mjs builds it. It is not in the repository; without it the console serves a page
// that says how to build it.
//
//go:embed all:dist
var dist embed.FS

// contentSecurityPolicy allows only files of this site: no inline script, no frame, no other site.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// site serves the files of the front end.
type site struct {
	files map[string]file // path, such as "/app.js" -> file
	built bool
}

type file struct {
	contentType   string
	body, gzipped []byte
	etag          string
}

func openSite(from fs.FS) (*site, error) {
	s := &site{files: map[string]file{}}
	err := fs.WalkDir(from, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path.Base(p), ".") {
			return err
		}
		body, err := fs.ReadFile(from, p)
		if err != nil {
			return err
		}
		f, err := newFile(p, body)
		s.files[strings.TrimPrefix(p, "dist")] = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the front end: %w", err)
	}
	if _, s.built = s.files["/index.html"]; !s.built {
		if s.files["/index.html"], err = newFile("index.html", []byte(notBuiltPage)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newFile(name string, body []byte) (file, error) {
	var gzipped bytes.Buffer
	z, err := gzip.NewWriterLevel(&gzipped, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(body)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return file{}, fmt.Errorf("compressing %s: %w", name, err)
	}
	sum := sha256.Sum256(body)
	contentType := mime.TypeByExtension(path.Ext(name))
	if path.Ext(name) == ".js" {
		contentType = "text/javascript; charset=utf-8" // the type table of the machine may have another one
	}
	return file{contentType, body, gzipped.Bytes(), `"` + hex.EncodeToString(sum[:12]) + `"`}, nil
}

// ServeHTTP serves a file. Every path that is not a file is an address of a view, for which it serves index.html.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := s.files[r.URL.Path]
	if !ok && path.Ext(r.URL.Path) != "" && !strings.HasPrefix(r.URL.Path, "/services/") &&
		!strings.HasPrefix(r.URL.Path, "/settings/") {
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "the console has no file %.200s", r.URL.Path))
		return
	}
	if !ok {
		f = s.files["/index.html"]
	}
	h := w.Header()
	h.Set("Content-Type", f.contentType)
	h.Set("ETag", f.etag)
	h.Set("Cache-Control", "no-cache") // browsers ask again each time, and get 304
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == f.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.body
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.gzipped
	}
	_, _ = w.Write(body) // an error here means that the client has closed the connection
}

// protect refuses requests that pages of other sites cause.
func (c *Console) protect(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		errs.WriteProblem(w, r, errs.Errorf(errs.Denied, "this request comes from a page of another site"))
	}))
	protected := crossOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !c.isAllowedHost(r.Host) {
			errs.WriteProblem(w, r, errs.Errorf(errs.Denied,
				"the console is not known as %q: open it by its address, or name the host in -hosts", r.Host))
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// isAllowedHost reports whether browsers may use this host name. Other names are refused, because another site can make
// its own name point to this address (DNS rebinding). An IP address cannot be made to point elsewhere.
func (c *Console) isAllowedHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil ||
		slices.Contains(c.opts.Hosts, host)
}

const notBuiltPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Bijou console</title>
<h1>The console is not built</h1>
<p>This binary was built without the front end. With Node.js 20 or newer, run
<pre>cd services/console/ui
npm ci
npm run build</pre>
<p>and build the binary again. The API works without it:
<a href="/api/state/fleet">instances</a>, <a href="/vizceral.json">traffic</a>.
</html>
`
