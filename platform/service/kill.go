package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/text"
)

// maxDown bounds how long a killed process may stay down.
const maxDown = 2 * time.Minute

// killRequest is the body of POST /kill.
type killRequest struct {
	// For is how long the process stays down after its supervisor has started it again, as a Go duration of at most 2m.
	// Empty: it starts again at once.
	For string `json:"for"`
	// Author and Reason say who does this and why. Both are required.
	Author string `json:"author"`
	Reason string `json:"reason"`
}

// serveKill ends the process like a crash: without a drain, and without informing callers or the registry. It refuses
// requests with the header fields that browsers add, so that no web page can do this.
func (p *Process) serveKill(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		errs.WriteProblem(w, r,
			errs.Errorf(errs.Denied, "killing %s: a page in a browser may not do this", p.Instance()))
		return
	}
	var req killRequest
	if !httpapi.Read(w, r, &req) {
		return
	}
	down, err := p.prepareDown(req)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	p.log.Warn("killed on request", "author", req.Author, "reason", req.Reason, "for", down)
	w.WriteHeader(http.StatusAccepted)
	_ = http.NewResponseController(w).Flush() // the answer must leave before the process does
	time.AfterFunc(50*time.Millisecond, p.opts.Crash)
}

// prepareDown checks the request and writes the hold file, which delays the next start.
func (p *Process) prepareDown(req killRequest) (down time.Duration, err error) {
	var bad errs.Violations
	if wrong := text.CheckNote(req.Author, text.MaxAuthor); wrong != nil {
		bad.Add("author", wrong.Error())
	}
	if wrong := text.CheckNote(req.Reason, text.MaxReason); wrong != nil {
		bad.Add("reason", wrong.Error())
	}
	if req.For != "" {
		if down, err = time.ParseDuration(req.For); err != nil || down < 0 || down > maxDown {
			bad.Addf("for", `must be a duration like "20s" of at most %v`, maxDown)
		}
	}
	if err := bad.Err("killing %s", p.Instance()); err != nil {
		return 0, err
	}
	if down == 0 {
		return 0, nil
	}
	if p.opts.StateDir == "" {
		return 0, errs.Errorf(errs.Precondition,
			"killing %s for %v: it has no -state-dir to remember that; leave out for", p.Instance(), down)
	}
	if err := os.MkdirAll(p.opts.StateDir, 0o755); err != nil {
		return 0, fmt.Errorf("killing %s: %w", p.Instance(), err)
	}
	until := time.Now().Add(down).UTC().Format(time.RFC3339Nano)
	if err := os.WriteFile(downFile(p.opts), []byte(until), 0o644); err != nil {
		return 0, fmt.Errorf("killing %s: %w", p.Instance(), err)
	}
	return down, nil
}

// downFile is the hold file: it has the time until which the process stays down.
func downFile(o Options) string { return filepath.Join(o.StateDir, "down-until") }

// stayDown removes the hold file and waits until the time in it, or until ctx ends.
func stayDown(ctx context.Context, o Options) error {
	if o.Crash == nil || o.StateDir == "" {
		return nil
	}
	note, err := os.ReadFile(downFile(o))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(downFile(o))
	}
	if err != nil {
		return fmt.Errorf("reading how long to stay down: %w", err)
	}
	// An unreadable hold file is ignored: the service starts.
	if until, err := time.Parse(time.RFC3339Nano, string(note)); err == nil {
		wait := min(time.Until(until), maxDown)
		if o.Log != nil && wait > 0 {
			o.Log.Warn("staying down after a kill", "until", until)
		}
		pace.Sleep(ctx, wait)
	}
	return nil
}
