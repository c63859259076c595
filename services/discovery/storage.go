package discovery

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/names"
	"google.golang.org/protobuf/encoding/protojson"
)

// The keys. Everything is JSON, so that an operator can read it.
//
//	/bijou/discovery/instances/SERVICE/ID   a savedInstance, without a lease of the store
//	/bijou/discovery/overrides/SERVICE/ID   an override
//	/bijou/discovery/replicas/REPLICA       a presence, with a lease that the replica renews
const (
	root          = "/bijou/discovery/"
	instancesRoot = root + "instances/"
	overridesRoot = root + "overrides/"
	replicasRoot  = root + "replicas/"
)

// savedInstance is the record of an instance.
type savedInstance struct {
	// Owner is the replica that has the stream.
	Owner string `json:"owner"`
	// Heartbeat and Lease are durations such as "3s".
	Heartbeat string `json:"heartbeat"`
	Lease     string `json:"lease"`
	// Instance is a discovery.v1.Instance.
	Instance json.RawMessage `json:"instance"`
}

func encodeInstance(owner string, rec *record) ([]byte, error) {
	body, err := protojson.Marshal(rec.inst)
	if err != nil {
		return nil, fmt.Errorf("encoding %s/%s: %w", rec.inst.GetService(), rec.inst.GetId(), err)
	}
	return json.Marshal(savedInstance{owner, rec.lease.heartbeat.String(), rec.lease.length.String(), body})
}

// DecodeRecord reads the value of an instance key. It is exported for tools and fuzzing.
func DecodeRecord(b []byte) (owner string, heartbeat, lease time.Duration, in *discoveryv1.Instance, err error) {
	var s savedInstance
	if err = json.Unmarshal(b, &s); err != nil {
		return "", 0, 0, nil, fmt.Errorf("decoding a record: %w", err)
	}
	in = &discoveryv1.Instance{}
	// Unknown fields are ignored: during an upgrade, newer replicas may write fields that older ones do not have.
	if err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(s.Instance, in); err != nil {
		return "", 0, 0, nil, fmt.Errorf("decoding the instance of a record: %w", err)
	}
	if heartbeat, err = time.ParseDuration(s.Heartbeat); err == nil {
		lease, err = time.ParseDuration(s.Lease)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("decoding the times of a record: %w", err)
	case heartbeat < MinHeartbeat || lease < 2*heartbeat || lease > MaxLease:
		err = fmt.Errorf("decoding a record: heartbeat %v and lease %v are out of bounds", heartbeat, lease)
	}
	return s.Owner, heartbeat, lease, in, err
}

func (k key) path(prefix string) string { return prefix + k.service + "/" + k.id }

// parseKey is the inverse of path.
func parseKey(prefix, path string) (key, bool) {
	rest, ok := strings.CutPrefix(path, prefix)
	service, id, ok2 := strings.Cut(rest, "/")
	return key{service, id}, ok && ok2 && names.Service.Match(service) && names.ID.Match(id)
}
