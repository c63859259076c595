package discovery

import (
	"maps"
	"strings"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Status is the state of an instance between its start and its end. The zero value is unknown and counts as not UP.
type Status uint8

// The statuses. Only Up takes new calls.
const (
	// Starting: registered, but not ready yet.
	Starting Status = iota + 1
	// Up: takes calls.
	Up
	// Draining: finishes the calls that it has and takes no new ones.
	Draining
	// OutOfService: an operator has taken it out of use.
	OutOfService
	// Down: the instance reports that it cannot work.
	Down
)

var statusNames = [...]string{"UNKNOWN", "STARTING", "UP", "DRAINING", "OUT_OF_SERVICE", "DOWN"}

// String returns the name as the registry shows it: "OUT_OF_SERVICE".
func (s Status) String() string {
	if int(s) >= len(statusNames) {
		s = 0
	}
	return statusNames[s]
}

// MarshalText writes the name, for JSON and logs.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Status) UnmarshalText(name []byte) error {
	if string(name) == statusNames[0] {
		*s = 0
		return nil
	}
	read, err := ParseStatus(string(name))
	if err != nil {
		return err
	}
	*s = read
	return nil
}

// ParseStatus is the inverse of [Status.String], in any case. Anything else is an error of kind errs.Invalid.
func ParseStatus(name string) (Status, error) {
	for i, n := range statusNames[1:] {
		if strings.EqualFold(n, name) {
			return Status(i + 1), nil
		}
	}
	return 0, errs.Errorf(errs.Invalid, "status %q is none of %s", name, strings.Join(statusNames[1:], ", "))
}

// MetaSettings is the key in [Instance.Metadata] that says how an instance gets its settings. The value
// SettingsWatched means that it watches the config service, which reports an instance that does not watch although it
// has this value.
const (
	MetaSettings    = "settings"
	SettingsWatched = "watched"
)

// Instance is one process of a service.
type Instance struct {
	// Service is the name of the service: "catalog".
	Service string `json:"service"`
	// ID is stable over restarts of the same instance and unique within the service: "catalog-1".
	ID string `json:"id"`
	// Endpoints are the listeners by name ("grpc", "http", "admin") as host:port.
	Endpoints map[string]string `json:"endpoints,omitempty"`
	// Environment, Region and Zone say where it runs, Version which version of the program. Each may be empty.
	Environment string `json:"environment,omitempty"`
	Region      string `json:"region,omitempty"`
	Zone        string `json:"zone,omitempty"`
	Version     string `json:"version,omitempty"`
	// Metadata has further properties, by name.
	Metadata map[string]string `json:"metadata,omitempty"`
	// Status is what callers should act on: the operator's override if there is one, else what the instance reports.
	Status Status `json:"status"`
	// Started is when this process of the instance started.
	Started time.Time `json:"started,omitzero"`
	// Suspect is true for an instance that is missing or silent, but kept, because too many were lost at the same time.
	Suspect bool `json:"suspect,omitempty"`
}

// Equal reports whether all fields are equal.
func (i Instance) Equal(o Instance) bool {
	return i.Service == o.Service && i.ID == o.ID && i.Environment == o.Environment && i.Region == o.Region &&
		i.Zone == o.Zone && i.Version == o.Version && i.Status == o.Status && i.Suspect == o.Suspect &&
		i.Started.Equal(o.Started) && maps.Equal(i.Endpoints, o.Endpoints) && maps.Equal(i.Metadata, o.Metadata)
}

func (i Instance) key() key { return key{i.Service, i.ID} }

// key names an instance.
type key struct{ service, id string }

func fromProto(p *discoveryv1.Instance) Instance {
	in := Instance{
		Service: p.GetService(), ID: p.GetId(), Endpoints: p.GetEndpoints(),
		Environment: p.GetEnvironment(), Region: p.GetRegion(), Zone: p.GetZone(), Version: p.GetVersion(),
		Metadata: p.GetMetadata(), Suspect: p.GetSuspect(),
	}
	if n := p.GetStatus(); n > 0 && int(n) < len(statusNames) {
		in.Status = Status(n) //nolint:gosec // bounded by the line above; the numbers of the contract are ours
	}
	if p.GetStarted() != nil {
		in.Started = p.GetStarted().AsTime()
	}
	return in
}

// toProto writes the status as both reported and effective: for a registrar they are the same, and the registry
// decides about overrides.
func (i Instance) toProto() *discoveryv1.Instance {
	p := &discoveryv1.Instance{
		Service: i.Service, Id: i.ID, Endpoints: i.Endpoints,
		Environment: i.Environment, Region: i.Region, Zone: i.Zone, Version: i.Version, Metadata: i.Metadata,
		Status: discoveryv1.Status(i.Status), Reported: discoveryv1.Status(i.Status), Suspect: i.Suspect,
	}
	if !i.Started.IsZero() {
		p.Started = timestamppb.New(i.Started)
	}
	return p
}
