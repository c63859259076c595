package gateway

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/static"
)

// respond answers a preflight, or a request of a route without targets.
func (x *exchange) respond() *flow.Failure {
	switch r := x.rule; {
	case x.to.Preflight:
		x.out.Whole(http.StatusNoContent, nil, "")
	case r.Redirect != nil:
		location := message.Field{Name: "Location", Value: r.RedirectTo.URL(x.to.Vars())}
		x.out.Whole(cmp.Or(r.Redirect.Status, http.StatusPermanentRedirect), message.Header{location}, "")
	case r.Respond != nil:
		var h message.Header
		if r.Respond.Body != "" {
			h.Add("Content-Type", cmp.Or(r.Respond.Type, "text/plain; charset=utf-8"))
		}
		x.out.Whole(cmp.Or(r.Respond.Status, http.StatusOK), h, r.Respond.Body)
	case r.Files != nil:
		return x.serveFile()
	}
	return nil
}

// serveFile answers with a file of the route's folder.
func (x *exchange) serveFile() *flow.Failure {
	f := x.rule.Files
	folder := static.Folder{
		Dir: f.Dir, Index: cmp.Or(f.Index, "index.html"), Fallback: f.Fallback, Precompressed: f.Precompressed,
	}
	w := &fileWriter{x: x, header: http.Header{}}
	name, err := url.PathUnescape(x.to.Vars().Rest)
	if err == nil {
		r := &http.Request{Method: x.in.Method, URL: &url.URL{Path: flow.PlainPath(x.in.Request)}, Header: x.in.Header.HTTP()}
		r.URL.RawQuery, r.Proto, r.ProtoMajor, r.ProtoMinor = strings.TrimPrefix(x.in.Query, "?"), "HTTP/1.1", 1, 1
		err = folder.Serve(w, r, name)
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusOK)
		if w.err == nil {
			w.err = x.out.Finish() // a file may have become shorter
		}
		x.out.CompleteOr(w.err)
		return nil
	case errors.Is(err, static.ErrNotFound):
		return flow.Fail(flow.FaultClient, http.StatusNotFound, "there is no such file")
	case errors.Is(err, static.ErrMethod):
		f := flow.Fail(flow.FaultClient, http.StatusMethodNotAllowed, "files can be read only, by GET and HEAD")
		f.Allow = "GET, HEAD"
		return f
	}
	x.edge.log.Error("serving a file", "route", x.rule.Name, "dir", f.Dir, "error", err)
	return flow.Fail(flow.FaultGateway, http.StatusInternalServerError, "the files of this route cannot be read")
}

// fileWriter is the http.ResponseWriter for http.ServeContent.
type fileWriter struct {
	x      *exchange
	header http.Header
	began  bool
	err    error
}

// Header implements http.ResponseWriter.
func (w *fileWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *fileWriter) WriteHeader(status int) {
	if w.began {
		return
	}
	w.began = true
	length := int64(-1)
	if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil {
		length = n
	}
	w.header.Del("Content-Length")
	var h message.Header
	h.FromHTTP(w.header)
	w.err = w.x.out.Begin(status, h, length)
}

// Write implements http.ResponseWriter.
func (w *fileWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.x.out.Write(p)
	w.err = err
	return n, err //nolint:wrapcheck // it says that the client has left
}
