package gateway

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"bijou.dev/services/gateway/internal/static"
	"bijou.dev/services/gateway/routes"
)

// respond answers a preflight, or a request of a route without targets.
func (x *exchange) respond() *failure {
	w := ownResponse{x}
	switch r := x.rule; {
	case x.preflight:
		w.WriteHeader(http.StatusNoContent)
	case r.Redirect != nil:
		w.Header().Set("Location", r.RedirectTo.URL(x.vars()))
		w.WriteHeader(cmp.Or(r.Redirect.Status, http.StatusPermanentRedirect))
	case r.Respond != nil:
		if body := r.Respond.Body; body != "" {
			w.Header().Set("Content-Type", cmp.Or(r.Respond.Type, "text/plain; charset=utf-8"))
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(cmp.Or(r.Respond.Status, http.StatusOK))
		if r.Respond.Body != "" && x.r.Method != http.MethodHead {
			_, _ = io.WriteString(w, r.Respond.Body) // fails when the client has left
		}
	case r.Files != nil:
		if f := x.serveFile(w); f != nil {
			return f
		}
	}
	if x.encoder != nil && x.encoder.Close() != nil {
		x.abort = true // the client has left, or a file has become shorter
	}
	return nil
}

// serveFile answers with a file of the route's folder.
func (x *exchange) serveFile(w ownResponse) *failure {
	f := x.rule.Files
	folder := static.Folder{
		Dir: f.Dir, Index: cmp.Or(f.Index, "index.html"), Fallback: f.Fallback, Precompressed: f.Precompressed,
	}
	name, err := url.PathUnescape(x.vars().Rest)
	if err == nil {
		err = folder.Serve(w, x.r, name)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, static.ErrNotFound):
		return fail(FaultClient, http.StatusNotFound, "there is no such file")
	case errors.Is(err, static.ErrMethod):
		w.Header().Set("Allow", "GET, HEAD")
		return fail(FaultClient, http.StatusMethodNotAllowed, "files can be read only, by GET and HEAD")
	}
	x.edge.log.Error("serving a file", "route", x.rule.Name, "dir", f.Dir, "error", err)
	return fail(FaultGateway, http.StatusInternalServerError, "the files of this route cannot be read")
}

// ownResponse is the writer for responses that the edge makes itself.
type ownResponse struct{ x *exchange }

// Header returns the header that WriteHeader sends.
func (w ownResponse) Header() http.Header { return w.x.w.Header() }

// WriteHeader sends the header with the changes of the route.
func (w ownResponse) WriteHeader(status int) {
	x := w.x
	if x.status != 0 {
		return
	}
	h := x.w.Header()
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // else the server would guess one
	}
	if c := &x.rule.Response; c.Any() {
		x.change(h, c)
	}
	x.setOrigins(h)
	x.compress(status, h, contentLength(h))
	x.setCommonHeaders()
	x.setStatus(status)
	x.boundUnread() // the server reads the rest of a body before it sends a header
	x.w.WriteHeader(status)
}

// Write sends a part of the body.
func (w ownResponse) Write(p []byte) (int, error) {
	if w.x.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.x.encoder != nil {
		return w.x.encoder.Write(p)
	}
	return plainWriter(w).Write(p)
}

// contentLength is the length that a header of the edge says; -1: none.
func contentLength(h http.Header) int64 {
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		return n
	}
	return -1
}

// vars are the values for the templates of the route.
func (x *exchange) vars() *routes.Vars {
	host, scheme := x.seenByClient()
	v := &routes.Vars{
		Scheme: scheme, Host: host, Path: x.path, Rest: x.path, Client: x.client(), ID: x.id,
		Query: x.query(), Groups: x.rule.Groups(x.path),
	}
	if m := &x.rule.Match; m.Path == "" && m.Prefix != "/" {
		v.Rest = routes.ReplacePrefix(x.path, len(m.Prefix), "/")
	}
	return v
}

// query is the query with its question mark. Empty: there is none.
func (x *exchange) query() string {
	if u := x.r.URL; u.RawQuery != "" || u.ForceQuery {
		return "?" + u.RawQuery
	}
	return ""
}
