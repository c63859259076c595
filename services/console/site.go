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

// policy allows nothing but our own files: no script from a text, no frame, no other site.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// site serves the files of the front end.
type site struct {
	files map[string]file // by path: "/app.js"
	built bool
}

type file struct {
	kind         string
	plain, small []byte // small is compressed
	tag          string
}

func openSite(from fs.FS) (*site, error) {
	s := &site{files: map[string]file{}}
	err := fs.WalkDir(from, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path.Base(p), ".") {
			return err
		}
		plain, err := fs.ReadFile(from, p)
		if err != nil {
			return err
		}
		f, err := newFile(p, plain)
		s.files[strings.TrimPrefix(p, "dist")] = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the front end: %w", err)
	}
	if _, s.built = s.files["/index.html"]; !s.built {
		if s.files["/index.html"], err = newFile("index.html", []byte(unbuilt)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newFile(name string, plain []byte) (file, error) {
	var small bytes.Buffer
	z, err := gzip.NewWriterLevel(&small, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(plain)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return file{}, fmt.Errorf("compressing %s: %w", name, err)
	}
	sum := sha256.Sum256(plain)
	kind := mime.TypeByExtension(path.Ext(name))
	if path.Ext(name) == ".js" {
		kind = "text/javascript; charset=utf-8" // tables of machines differ
	}
	return file{kind: kind, plain: plain, small: small.Bytes(), tag: `"` + hex.EncodeToString(sum[:12]) + `"`}, nil
}

// ServeHTTP serves a file, and the page itself for every path that is none: the page shows views by its path.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notFound(w, r)
		return
	}
	f, ok := s.files[r.URL.Path]
	if !ok && path.Ext(r.URL.Path) != "" && !strings.HasPrefix(r.URL.Path, "/services/") &&
		!strings.HasPrefix(r.URL.Path, "/settings/") {
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "the console has no file %s", r.URL.Path))
		return
	}
	if !ok {
		f = s.files["/index.html"]
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache") // asked again each time, answered by 304
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.small
	}
	_, _ = w.Write(body) // the client may be gone
}

// protect keeps pages of other sites away.
func (c *Console) protect(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		errs.WriteProblem(w, r, errs.Errorf(errs.Denied, "this request comes from a page of another site"))
	}))
	guarded := cross.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !c.knownHost(r.Host) {
			errs.WriteProblem(w, r,
				errs.Errorf(errs.Denied, "the console is not known as %q: open it by its address, or name the host in -hosts",
					r.Host))
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// knownHost refuses names that somebody else may have made to point here (DNS rebinding). An address cannot be made to.
func (c *Console) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil ||
		slices.Contains(c.opts.Hosts, host)
}

const unbuilt = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Bijou console</title>
<h1>The console is not built</h1>
<p>This binary was built without the front end. With Node.js 20 or newer:
<pre>cd services/console/ui
npm ci
npm run build</pre>
<p>and build it again. Meanwhile the API works: <a href="/api/state/fleet">every instance</a>, <a href="/vizceral.json">the traffic</a>.
</html>
`
