package circuits

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
)

// Handler serves the HTTP API; see docs/api/circuits.md.
func (b *Board) Handler() http.Handler {
	mux := new(httpapi.Mux)
	mux.HandleFunc("GET /turbine.stream", b.turbine)
	mux.Handle("/v1/circuits", httpapi.Get(func(r *http.Request) (*circuitsv1.WatchResponse, error) {
		return shown(b.parts(r.URL.Query().Get("service"), false)), nil
	}))
	mux.Handle("/v1/links", httpapi.Get(func(*http.Request) (*circuitsv1.LinksResponse, error) {
		return links(b.parts("", false)), nil
	}))
	mux.Handle("/v1/force", httpapi.Post(b.Force))
	return mux
}

// turbine streams one calling service, or all. It has data of this board only. Unlike Turbine and the proxy of the
// Hystrix dashboard it never connects to an address from the request.
func (b *Board) turbine(w http.ResponseWriter, r *http.Request) {
	cluster := r.URL.Query().Get("cluster")
	if cluster == "default" {
		cluster = ""
	}
	ctx, done, err := b.openStream(r.Context(), true)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	defer done()
	sent := map[string]string{} // circuit -> group, of those in the last round of this client
	circuit.ServeEvents(w, r.WithContext(ctx), func() time.Duration { return period }, func(buf *bytes.Buffer) error {
		circuits, processes := total(b.parts(cluster, false))
		return writeTurbine(buf, circuits, processes, sent)
	})
}

// writeTurbine writes one round of events. A circuit that no process reports any more is sent once more with zeros,
// because a dashboard keeps showing the last numbers that it got.
func writeTurbine(
	buf *bytes.Buffer, circuits []*circuitsv1.Snapshot, processes int, sent map[string]string,
) error {
	removed := maps.Clone(sent)
	for _, c := range circuits {
		sent[c.Name] = c.Group
		delete(removed, c.Name)
	}
	for name, group := range removed {
		delete(sent, name)
		circuits = append(circuits, &circuitsv1.Snapshot{
			Name: name, Group: group, State: circuitsv1.State_STATE_CLOSED, ReportingHosts: 1,
		})
	}
	now := time.Now()
	if err := circuit.WriteEvents(buf, circuits, now); err != nil {
		return err
	}
	meta, err := json.Marshal(map[string]any{
		"type": "meta", "name": "meta", "reportingHostsLast10Seconds": processes, "timestamp": now.UnixMilli(),
	})
	if err != nil {
		return err
	}
	if len(circuits) == 0 {
		buf.WriteString("ping: \n\n")
	}
	_, err = fmt.Fprintf(buf, "data: %s\n\n", meta)
	return err
}
