package console

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
)

// The back ends, as the page names them.
const (
	partRegistry = "registry"
	partCircuits = "circuits"
	partSettings = "settings"
	partEdge     = "edge"
	// The stores behind two of them: without its store a service answers from memory and can write nothing.
	partRegistryStore = "registryStore"
	partSettingsStore = "settingsStore"
)

// partNames has who is meant, for a sentence.
var partNames = map[string]string{
	partRegistry: "the registry", partCircuits: "the circuits service", partSettings: "the configuration service",
	partEdge: "the gateway", partRegistryStore: "the store (etcd)", partSettingsStore: "the store (etcd)",
}

// seen has the last answer of each back end. The topics are made from it, and nothing else is kept.
type seen struct {
	mu       sync.Mutex
	parts    map[string]part
	late     map[string]time.Time // back end -> when the question was reported late, after which it has one more try
	list     *discoveryv1.ListResponse
	probes   map[instanceKey]*probe
	circuits *circuitsv1.WatchResponse
	tables   map[string]json.RawMessage // gateway's instance -> its table
}

type instanceKey struct{ service, id string }

// part says whether a back end answers.
type part struct {
	OK      bool      `json:"ok"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"` // when OK last changed
}

func newSeen() *seen {
	s := &seen{}
	s.forget()
	return s
}

// forget removes all answers. It is called when no page was open for a while: the answers are out of date.
func (s *seen) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts, s.late = map[string]part{}, map[string]time.Time{}
	s.probes, s.tables = map[instanceKey]*probe{}, map[string]json.RawMessage{}
	s.list, s.circuits = nil, nil
}

// report publishes whether a back end answered. It returns false, and publishes nothing, after the first late answer:
// that happens on a busy machine, above all to the first question, which waits for connections while every instance is
// asked at once. A second late answer in a row, and any other error, is published.
func (c *Console) report(name string, err error) (reported bool) {
	next := part{OK: err == nil, Since: time.Now().UTC()}
	if err != nil {
		next.Problem = sentence(partNames[name], err)
	}
	old, known, all := c.seen.put(name, &next, isLate(err))
	if all == nil {
		return false
	}
	if !next.OK && (!known || old.OK) {
		c.log.Warn("a back end does not answer", slog.String("part", name), slog.Any("error", err))
	}
	c.hub.publish(topicParts, all)
	return true
}

// put stores the state of a part and returns the one before with a copy of all. Without a copy it has stored nothing,
// because the answer was late for the first time.
func (s *seen) put(name string, next *part, late bool) (old part, known bool, all map[string]part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known = s.parts[name]
	since, wasLate := s.late[name]
	delete(s.late, name)
	if late && !wasLate && (!known || old.OK) {
		s.late[name] = next.Since
		return old, known, nil
	}
	if late && wasLate {
		next.Since = since
	}
	if known && old.OK == next.OK {
		next.Since = old.Since
	}
	s.parts[name] = *next
	return old, known, maps.Clone(s.parts)
}

func isLate(err error) bool {
	return err != nil && (isTimeout(err) || errors.Is(errs.FromRPC(err), errs.Timeout))
}
