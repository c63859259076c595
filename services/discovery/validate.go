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
	// MinHeartbeat is the shortest heartbeat. The longest is half of MaxLease. A lease is at least two heartbeats.
	MinHeartbeat = 100 * time.Millisecond

	maxText    = 256  // bytes of an address, a key of metadata or the name of a watcher
	maxWatched = 1000 // services that one watcher may name
)

// checkHeartbeat checks a message of an instance. The error names each bad field.
func checkHeartbeat(req *discoveryv1.RegisterRequest) error {
	var bad errs.Violations
	if in := req.GetInstance(); in == nil {
		bad.Add("instance", "must be there")
	} else {
		checkInstance(bad.At("instance"), in)
	}
	beat, lease := req.GetHeartbeat().AsDuration(), req.GetLease().AsDuration()
	if beat != 0 && (beat < MinHeartbeat || beat > MaxLease/2) {
		bad.Addf("heartbeat", "must be %v to %v", MinHeartbeat, MaxLease/2)
	}
	if lease != 0 && (lease < 2*MinHeartbeat || lease > MaxLease) {
		bad.Addf("lease", "must be %v to %v", 2*MinHeartbeat, MaxLease)
	}
	if lease != 0 && lease < 2*beat {
		bad.Add("lease", "must be at least two heartbeats")
	}
	return bad.Err("checking input")
}

func checkInstance(bad *errs.Violations, in *discoveryv1.Instance) {
	if size := proto.Size(in); size > MaxInstanceSize {
		bad.Addf("", "must be at most %d bytes, is %d", MaxInstanceSize, size)
	}
	checkName(bad, in.GetService(), in.GetId())
	for field, value := range map[string]string{
		"environment": in.GetEnvironment(), "region": in.GetRegion(), "zone": in.GetZone(), "version": in.GetVersion(),
	} {
		if value != "" {
			addError(bad, field, names.ID.Check(value))
		}
	}
	if !isStatus(in.GetReported()) || in.GetReported() == discoveryv1.Status_STATUS_UNSPECIFIED {
		bad.Add("reported", "must be a status")
	}
	if in.GetStarted() != nil && !in.GetStarted().IsValid() {
		bad.Add("started", "must be a valid time")
	}
	checkEndpoints(bad, in.GetEndpoints())
	if n := len(in.GetMetadata()); n > MaxMetadata {
		bad.Addf("metadata", "must be at most %d entries, are %d", MaxMetadata, n)
	}
	for key := range in.GetMetadata() {
		if text.CheckNote(key, maxText) != nil {
			bad.Addf("metadata", "must have printable keys of at most %d bytes, not %.40q", maxText, key)
		}
	}
}

func checkEndpoints(bad *errs.Violations, endpoints map[string]string) {
	if n := len(endpoints); n > MaxEndpoints {
		bad.Addf("endpoints", "must be at most %d, are %d", MaxEndpoints, n)
	}
	for name, addr := range endpoints {
		field := fmt.Sprintf("endpoints[%.40q]", name)
		addError(bad, field, names.Service.Check(name))
		if !isHostPort(addr) {
			bad.Addf(field, "must be host:port, not %.80q", addr)
		}
	}
}

func isHostPort(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	n, numErr := strconv.ParseUint(port, 10, 16)
	return err == nil && numErr == nil && n > 0 && host != "" && text.CheckLine(addr, maxText) == nil
}

func checkName(bad *errs.Violations, service, id string) {
	addError(bad, "service", names.Service.Check(service))
	addError(bad, "id", names.ID.Check(id))
}

func isStatus(s discoveryv1.Status) bool {
	_, ok := discoveryv1.Status_name[int32(s)]
	return ok
}

// addError adds what a check of package names or text has found, if anything.
func addError(bad *errs.Violations, field string, err error) {
	if err != nil {
		bad.Add(field, err.Error())
	}
}

func checkOverride(req *discoveryv1.SetOverrideRequest) error {
	var bad errs.Violations
	checkName(&bad, req.GetService(), req.GetId())
	if !isStatus(req.GetStatus()) || req.GetStatus() == discoveryv1.Status_STATUS_STARTING {
		bad.Add("status", "must be UP, DRAINING, OUT_OF_SERVICE or DOWN, or nothing to clear")
	}
	addError(&bad, "author", text.CheckLine(req.GetAuthor(), text.MaxAuthor))
	addError(&bad, "reason", text.CheckLine(req.GetReason(), text.MaxReason))
	return bad.Err("checking input")
}

func checkWatch(req *discoveryv1.WatchRequest) error {
	var bad errs.Violations
	if n := len(req.GetServices()); n > maxWatched {
		bad.Addf("services", "must be at most %d, are %d", maxWatched, n)
	}
	for i, service := range req.GetServices() {
		addError(&bad, fmt.Sprintf("services[%d]", i), names.Service.Check(service))
	}
	addError(&bad, "watcher", text.CheckLine(req.GetWatcher(), maxText))
	return bad.Err("checking input")
}
