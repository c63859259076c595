package gateway

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/accesslog"
)

// accessLog writes the lines of requests.
type accessLog struct {
	form    atomic.Pointer[accesslog.Form]
	file    *accesslog.File // gets lines of text; nil: they are in the log
	log     *slog.Logger
	failing atomic.Bool // the last write failed
}

// lines is memory for lines of text.
var lines = sync.Pool{New: func() any { return new([]byte) }}

// setLogForm puts the form of lines into use.
func (e *Edge) setLogForm(s accesslog.Settings) {
	f, err := accesslog.Compile(s)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous form of the access log", "error", err)
		return
	}
	e.access.form.Store(f)
}

// write writes a line of text.
func (a *accessLog) write(x *exchange, f *accesslog.Form, e *accesslog.Entry) {
	buf := lines.Get().(*[]byte)
	defer lines.Put(buf)
	*buf = f.Append((*buf)[:0], e)
	if a.file == nil {
		a.log.LogAttrs(x.in.Ctx, slog.LevelInfo, "request", slog.String("line", string((*buf)[:len(*buf)-1])))
		return
	}
	_, err := a.file.Write(*buf)
	if failed := err != nil; a.failing.Swap(failed) != failed && failed {
		a.log.Error("writing the access log; further failures in a row are not logged", "error", err)
	}
}

// access writes the request's line in the log.
func (x *exchange) access() {
	a := &x.edge.access
	mode, f := x.edge.settings.accessLog.Get(), a.form.Load()
	share := f.Share()
	if x.rule != nil && x.rule.AccessLog != nil {
		mode, share = cmp.Or(x.rule.AccessLog.Mode, mode), cmp.Or(x.rule.AccessLog.Share, share)
	}
	switch {
	case mode == logOff:
		return
	case x.fault != "":
		share = 1 // each failure has a line
	case mode == logErrors, share < 1 && rand.Float64() >= share:
		return
	}
	if (!f.IsText() || a.file == nil) && !x.edge.log.Enabled(x.in.Ctx, slog.LevelInfo) {
		return
	}
	e := accesslog.Entry{
		At: x.in.Start, Took: time.Since(x.in.Start), Method: x.in.Method, Host: x.in.Host, Path: x.to.Path,
		Query: x.in.Query, Protocol: x.in.Version.String(), Scheme: x.in.SeenScheme, Status: x.out.Status,
		Bytes: x.out.Bytes, Attempts: len(x.sent.Attempts), Fault: string(x.fault), Client: x.in.Client, Peer: x.in.Peer,
		Identity: x.identity(), RequestID: x.in.ID, Header: x.in.Header, Share: share,
	}
	if x.rule != nil {
		e.Route = x.rule.Name
	}
	if x.sent.Target != nil {
		e.Called = x.sent.Target.Name
	}
	if n := len(x.sent.Attempts); n > 0 {
		e.By = x.sent.Attempts[n-1].Instance
	}
	if !f.IsText() {
		var room [16]slog.Attr
		x.edge.log.LogAttrs(x.in.Ctx, slog.LevelInfo, "request", f.Attrs(room[:0], &e)...)
		return
	}
	if sc := x.in.Span.SpanContext(); sc.IsValid() && f.HasTraceID() {
		e.TraceID = sc.TraceID().String()
	}
	a.write(x, f, &e)
}
