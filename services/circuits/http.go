package circuits

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// maxBody is far more than a force needs.
const maxBody = 64 << 10

// Handler serves the HTTP API; see docs/api/circuits.md.
func (b *Board) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /turbine.stream", b.turbine)
	mux.HandleFunc("GET /v1/circuits", b.list)
	mux.HandleFunc("GET /v1/links", b.listLinks)
	mux.HandleFunc("POST /v1/force", b.force)
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

func (b *Board) list(w http.ResponseWriter, r *http.Request) {
	writeProto(w, r, shown(b.parts(r.URL.Query().Get("service"), false)))
}

func (b *Board) listLinks(w http.ResponseWriter, r *http.Request) {
	writeProto(w, r, links(b.parts("", false)))
}

// force requires the content type of JSON: a browser sends it for a form of another site only if this site allows it.
func (b *Board) force(w http.ResponseWriter, r *http.Request) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		errs.WriteProblemBody(w, errs.Problem{
			Type: "about:blank", Title: "Unsupported Media Type", Status: http.StatusUnsupportedMediaType,
			Detail: "forcing a circuit: send application/json", Instance: r.URL.Path,
		}, 0)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "reading the request of at most %d bytes: %w", maxBody, err))
		return
	}
	var req circuitsv1.ForceRequest
	if err := protojson.Unmarshal(body, &req); err != nil {
		errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "reading the request: %w", err))
		return
	}
	resp, err := b.Force(r.Context(), &req)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	writeProto(w, r, resp)
}

func writeProto(w http.ResponseWriter, r *http.Request, m proto.Message) {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		errs.WriteProblem(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // the client went
}
