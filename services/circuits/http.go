package circuits

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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
	mux.HandleFunc("POST /v1/force", b.force)
	return mux
}

// turbine streams one calling service, or all. It reaches nobody but this board: the address of a stream to show is
// never taken from the request.
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
	shown := map[string]string{} // circuit -> group, as this client has it
	circuit.ServeEvents(w, r.WithContext(ctx), func() time.Duration { return period }, func(buf *bytes.Buffer) error {
		circuits, hosts := total(b.state(cluster, false))
		return writeTurbine(buf, circuits, hosts, shown)
	})
}

// writeTurbine writes one round. A circuit whose last process is gone is sent once more with zeros, because a dashboard
// would show its last numbers for ever.
func writeTurbine(buf *bytes.Buffer, circuits []*circuitsv1.Snapshot, hosts int, shown map[string]string) error {
	gone := map[string]string{}
	for name, group := range shown {
		gone[name] = group
	}
	for _, c := range circuits {
		shown[c.Name] = c.Group
		delete(gone, c.Name)
	}
	for name, group := range gone {
		delete(shown, name)
		circuits = append(circuits, &circuitsv1.Snapshot{Name: name, Group: group, State: circuitsv1.State_STATE_CLOSED, ReportingHosts: 1})
	}
	now := time.Now()
	if err := circuit.WriteEvents(buf, circuits, now); err != nil {
		return err
	}
	meta, err := json.Marshal(map[string]any{
		"type": "meta", "name": "meta", "reportingHostsLast10Seconds": hosts, "timestamp": now.UnixMilli(),
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
	writeProto(w, r, b.state(r.URL.Query().Get("service"), false))
}

// force asks for JSON by content type: a form on another site cannot send that without this site's consent.
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
