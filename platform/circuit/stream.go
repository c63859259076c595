package circuit

import (
	"bytes"
	"net/http"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/load"
	"bijou.dev/platform/pace"
)

// StreamHandler serves hystrix.stream: server-sent events for a Hystrix dashboard, every 500 ms. The settings
// circuit.stream.interval and circuit.stream.maxConnections are live. A client that reads nothing for 10 seconds is
// disconnected. The handler returns when the client disconnects or the request's context ends.
func (s *Set) StreamHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.streams.Add(-1)
		if s.streams.Add(1) > s.settings.streamConnections.Get() {
			errs.WriteProblem(w, r, errs.Errorf(errs.Unavailable,
				"opening the stream: %d are open, which is the limit", s.settings.streamConnections.Get()))
			return
		}
		ServeEvents(w, r, s.settings.streamInterval.Get, func(buf *bytes.Buffer) error {
			return WriteEvents(buf, s.Snapshots(), time.Now())
		})
	})
}

// ServeEvents answers r with server-sent events: what write puts into its buffer, at once and then after each interval.
// If that is nothing, it sends a ping. It returns when the client disconnects or the context of r ends.
func ServeEvents(
	w http.ResponseWriter, r *http.Request, interval func() time.Duration, write func(*bytes.Buffer) error,
) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream;charset=UTF-8")
	h.Set("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate")
	h.Set("X-Content-Type-Options", "nosniff")
	rc := http.NewResponseController(w)
	var buf bytes.Buffer
	for {
		buf.Reset()
		if err := write(&buf); err != nil {
			return
		}
		if buf.Len() == 0 {
			buf.WriteString("ping: \n\n")
		}
		// A server's write time-out counts from the start of the request, which would end every stream. Not every
		// ResponseWriter has deadlines; the others then rely on their server.
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := w.Write(buf.Bytes()); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
		if !pace.Sleep(r.Context(), pace.Jitter(interval(), 0.05)) {
			return
		}
	}
}

// Handler serves the circuits as JSON: {"circuits": [...]} in the form of the contract's Snapshot, with state, reason,
// counts, figures, example traces and the settings in force.
func (s *Set) Handler() http.Handler {
	return httpapi.Get(func(*http.Request) (*circuitsv1.ServiceCircuits, error) {
		return &circuitsv1.ServiceCircuits{
			Service: s.opts.Service, Instances: instances(s.opts.Instance), Circuits: s.shown(),
		}, nil
	})
}

// shown returns the snapshots with figures in the place of loads.
func (s *Set) shown() []*circuitsv1.Snapshot {
	snaps := s.Snapshots()
	for _, snap := range snaps {
		var l load.Load
		l.AddProto(snap.Load)
		snap.Figures, snap.Load = l.Figures(), nil
	}
	return snaps
}

func instances(id string) []string {
	if id == "" {
		return nil
	}
	return []string{id}
}
