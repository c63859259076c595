package discovery

import (
	"fmt"
	"net"
	"strconv"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/text"
	"google.golang.org/protobuf/proto"
)

// Limits of an instance.
const (
	// MaxInstanceSize is the size of one encoded instance, in bytes.
	MaxInstanceSize = 32 << 10
	// MaxMetadata is the number of metadata entries, and MaxEndpoints that of endpoints.
	MaxMetadata  = 64
	MaxEndpoints = 16
	// MaxLease is the longest lease that an instance may ask for.
	MaxLease = 10 * time.Minute
	// MinHeartbeat is the shortest heartbeat, the longest is half of MaxLease. A lease is at least two heartbeats.
	MinHeartbeat = 100 * time.Millisecond

	maxText = 256 // bytes of an address, a key of metadata or the name of a watcher
)

// violations collects what is wrong with an input.
type violations struct{ errs.Violations }

func (v *violations) add(ok bool, field, format string, args ...any) {
	if !ok {
		v.Addf(field, format, args...)
	}
}

func (v *violations) result() error { return v.Err("checking input") }

// check adds what a check of package names or text found, if anything.
func (v *violations) check(field string, err error) {
	if err != nil {
		v.add(false, field, "%s", err)
	}
}

// place checks what may be empty: where an instance runs and what it runs.
func (v *violations) place(field, s string) {
	if s != "" {
		v.check(field, names.ID.Check(s))
	}
}

func (v *violations) name(prefix, service, id string) {
	v.check(prefix+"service", names.Service.Check(service))
	v.check(prefix+"id", names.ID.Check(id))
}

// checkHeartbeat says what is wrong with a heartbeat, naming each field.
func checkHeartbeat(req *discoveryv1.RegisterRequest) error {
	var v violations
	in := req.GetInstance()
	if in == nil {
		v.add(false, "instance", "must be there")
		return v.result()
	}
	v.name("instance.", in.GetService(), in.GetId())
	size := proto.Size(in)
	v.add(size <= MaxInstanceSize, "instance", "must be at most %d bytes, is %d", MaxInstanceSize, size)
	v.place("instance.environment", in.GetEnvironment())
	v.place("instance.region", in.GetRegion())
	v.place("instance.zone", in.GetZone())
	v.place("instance.version", in.GetVersion())
	_, known := discoveryv1.Status_name[int32(in.GetReported())]
	v.add(known && in.GetReported() != discoveryv1.Status_STATUS_UNSPECIFIED, "instance.reported", "must be a status")
	v.add(in.GetStarted() == nil || in.GetStarted().IsValid(), "instance.started", "must be a valid time")
	v.endpoints(in.GetEndpoints())
	v.metadata(in.GetMetadata())
	v.times(req)
	return v.result()
}

func (v *violations) endpoints(endpoints map[string]string) {
	v.add(len(endpoints) <= MaxEndpoints, "instance.endpoints", "must be at most %d, are %d", MaxEndpoints, len(endpoints))
	for name, addr := range endpoints {
		v.check(fmt.Sprintf("instance.endpoints[%.40q]", name), names.Service.Check(name))
		v.add(hostPort(addr), fmt.Sprintf("instance.endpoints[%.40q]", name), "must be host:port, not %.80q", addr)
	}
}

func hostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	n, numErr := strconv.ParseUint(port, 10, 16)
	return err == nil && numErr == nil && n > 0 && host != "" && text.CheckLine(addr, maxText) == nil
}

func (v *violations) metadata(metadata map[string]string) {
	v.add(len(metadata) <= MaxMetadata, "instance.metadata", "must be at most %d entries, are %d", MaxMetadata, len(metadata))
	for k := range metadata {
		v.add(text.CheckNote(k, maxText) == nil, "instance.metadata", "must have printable keys of at most %d bytes, not %.40q", maxText, k)
	}
}

func (v *violations) times(req *discoveryv1.RegisterRequest) {
	beat, lease := req.GetHeartbeat().AsDuration(), req.GetLease().AsDuration()
	v.add(beat == 0 || beat >= MinHeartbeat && beat <= MaxLease/2, "heartbeat", "must be %v to %v", MinHeartbeat, MaxLease/2)
	v.add(lease == 0 || lease >= 2*MinHeartbeat && lease <= MaxLease, "lease", "must be %v to %v", 2*MinHeartbeat, MaxLease)
	v.add(lease == 0 || lease >= 2*beat, "lease", "must be at least two heartbeats")
}

func checkOverride(req *discoveryv1.SetOverrideRequest) error {
	var v violations
	v.name("", req.GetService(), req.GetId())
	_, known := discoveryv1.Status_name[int32(req.GetStatus())]
	v.add(known && req.GetStatus() != discoveryv1.Status_STATUS_STARTING, "status", "must be UP, DRAINING, OUT_OF_SERVICE or DOWN, or nothing to clear")
	v.check("author", text.CheckLine(req.GetAuthor(), text.MaxAuthor))
	v.check("reason", text.CheckLine(req.GetReason(), text.MaxReason))
	return v.result()
}

func checkWatch(req *discoveryv1.WatchRequest) error {
	var v violations
	v.add(len(req.GetServices()) <= 1000, "services", "must be at most 1000")
	for i, s := range req.GetServices() {
		v.check(fmt.Sprintf("services[%d]", i), names.Service.Check(s))
	}
	v.check("watcher", text.CheckLine(req.GetWatcher(), maxText))
	return v.result()
}
