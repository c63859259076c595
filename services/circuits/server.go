package circuits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/pace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const (
	// maxCircuits is more than a circuit.Set can have.
	maxCircuits = 3000
	maxName     = 256
	maxReason   = 4096
	// maxMap bounds the entries of each map of a snapshot.
	maxMap = 100
	// maxTraceID is the length of a trace id in hex.
	maxTraceID = 32
)

// Report implements the contract. The stream ends with kind Unavailable when this replica stops.
func (b *Board) Report(stream reportStream) error {
	var (
		from process
		id   = new(byte)
	)
	defer func() { b.drop(from, id) }()
	for req, err := range requests(b.closing, stream) {
		if err != nil {
			return err
		}
		if err := validate(req); err != nil {
			return err
		}
		p := process{req.Service, req.Instance}
		if from == (process{}) {
			from = p
		}
		if p != from {
			return errs.Errorf(errs.Invalid,
				"reporting circuits: the stream began as %s and continues as %s; open another one",
				from.instance, p.instance)
		}
		if err := b.put(p, &report{at: time.Now(), state: stateOf(req), stream: id}); err != nil {
			return err
		}
	}
	return stream.SendAndClose(&circuitsv1.ReportResponse{})
}

// stateOf returns the state of the process that sent a report.
func stateOf(req *circuitsv1.ReportRequest) *circuitsv1.ServiceCircuits {
	s := &circuitsv1.ServiceCircuits{
		Service: req.Service, Instances: []string{req.Instance}, Circuits: req.Circuits,
	}
	if req.Served != nil {
		s.Served = []*circuitsv1.Served{{Instance: req.Instance, Load: req.Served, Internet: req.Internet}}
	}
	return s
}

type reportStream = grpc.ClientStreamingServer[circuitsv1.ReportRequest, circuitsv1.ReportResponse]

// requests yields what a stream receives until the client ends it. The last pair has an error if the stream breaks or
// the replica stops. The goroutine that receives ends with the stream, right after its handler has returned.
func requests(closing context.Context, stream reportStream) iter.Seq2[*circuitsv1.ReportRequest, error] {
	type received struct {
		req *circuitsv1.ReportRequest
		err error
	}
	return func(yield func(*circuitsv1.ReportRequest, error) bool) {
		in := make(chan received)
		ctx := stream.Context()
		go func() {
			for {
				req, err := stream.Recv()
				select {
				case in <- received{req, err}:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
		for {
			select {
			case r := <-in:
				if errors.Is(r.err, io.EOF) {
					return
				}
				if !yield(r.req, r.err) || r.err != nil {
					return
				}
			case <-closing.Done():
				yield(nil, errs.Errorf(errs.Unavailable,
					"reporting circuits: this replica is stopping; report to another one"))
				return
			}
		}
	}
}

// validate refuses a report that a reader of the board could not handle.
func validate(req *circuitsv1.ReportRequest) error {
	var bad errs.Violations
	if req.Service == "" || len(req.Service) > maxName {
		bad.Add("service", "must have 1 to 256 bytes")
	}
	if req.Instance == "" || len(req.Instance) > maxName {
		bad.Add("instance", "must have 1 to 256 bytes")
	}
	if problem := load.Validate(req.Served); problem != nil {
		bad.Add("served", "must be possible: "+problem.Error())
	}
	if len(req.Circuits) > maxCircuits {
		bad.Add("circuits", "must be at most 3000")
	}
	for _, c := range req.Circuits {
		if problem := validateSnapshot(c); problem != "" {
			bad.Add(fmt.Sprintf("circuits[%.64q]", c.Name), problem)
			break // the first one is enough to find the sender
		}
	}
	return bad.Err("reporting circuits of %q", req.Instance)
}

func validateSnapshot(c *circuitsv1.Snapshot) string {
	if c.Name == "" || len(c.Name) > maxName || len(c.Group) > maxName {
		return "must have a name, and names of at most 256 bytes"
	}
	if max(len(c.Rolling), len(c.Properties)) > maxMap ||
		len(c.ExampleTraces) > maxExamples || len(c.Reason) > maxReason {
		return "must have at most 100 events and properties, 3 traces and a reason of 4096 bytes"
	}
	if slices.ContainsFunc(c.ExampleTraces, func(id string) bool { return len(id) > maxTraceID }) {
		return "must have traces with ids of at most 32 digits"
	}
	for _, n := range c.Rolling {
		if n < 0 {
			return "must have counts of at least 0"
		}
	}
	if err := load.Validate(c.Load); err != nil {
		return "must have a load that is possible: " + err.Error()
	}
	if min(c.Requests, c.Errors) < 0 || min(c.Concurrent, c.MaxConcurrent, c.ReportingHosts, c.OpenInstances) < 0 {
		return "must have counts of at least 0"
	}
	return ""
}

// peerKey is metadata of a watch by another replica. Such a watch gets only what was reported to this replica, not what
// this replica has from its own peers, so that nothing is counted twice.
const peerKey = "bijou-circuits-peer"

// Watch implements the contract. A service that is not known is no error: it may report later.
func (b *Board) Watch(req *circuitsv1.WatchRequest, stream grpc.ServerStreamingServer[circuitsv1.WatchResponse]) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	peer := len(md.Get(peerKey)) > 0
	ctx, done, err := b.openStream(stream.Context(), !peer)
	if err != nil {
		return err
	}
	defer done()
	for {
		if err := stream.Send(b.watched(req.Service, peer)); err != nil {
			return err
		}
		if !pace.Sleep(ctx, pace.Jitter(period, 0.05)) {
			break
		}
	}
	if b.closing.Err() != nil {
		return errs.Errorf(errs.Unavailable, "watching circuits: this replica is stopping; watch another one")
	}
	return ctx.Err()
}

// watched returns one message of a watch.
func (b *Board) watched(service string, peer bool) *circuitsv1.WatchResponse {
	parts := b.parts(service, peer)
	if peer {
		return merged(parts)
	}
	resp := shown(parts)
	if service == "" {
		resp.Links = links(parts)
	}
	return resp
}
