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

// The parts of the platform whose state the topic "parts" has.
const (
	partRegistry = "registry"
	partCircuits = "circuits"
	partSettings = "settings"
	partEdge     = "edge"
	// The registry and the configuration service keep their data in a store. While a store does not answer, its service
	// answers from memory and refuses writes.
	partRegistryStore = "registryStore"
	partSettingsStore = "settingsStore"
)

// partNames has the name of each part in the texts for users.
var partNames = map[string]string{
	partRegistry: "the registry", partCircuits: "the circuits service", partSettings: "the configuration service",
	partEdge: "the gateway", partRegistryStore: "the store (etcd)", partSettingsStore: "the store (etcd)",
}

// answers has the last answer of each backend. All topics are computed from it.
type answers struct {
	mu       sync.Mutex
	parts    map[string]part
	timedOut map[string]time.Time      // part -> time of a first timeout, which is not shown yet
	list     *discoveryv1.ListResponse // nil: the registry has not answered, or its last answer was an error
	probes   map[instanceKey]*probe
	circuits *circuitsv1.WatchResponse  // nil: the circuits service sends nothing
	tables   map[string]json.RawMessage // gateway instance -> its routes
}

type instanceKey struct{ service, id string }

// part says whether a part of the platform works.
type part struct {
	OK bool `json:"ok"`
	// Unknown: what would report the state of this part does not answer. OK is false then.
	Unknown bool      `json:"unknown,omitempty"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"` // when OK or Unknown last changed
}

func newAnswers() *answers {
	a := &answers{}
	a.reset()
	return a
}

// reset removes all answers. It is called when no page has been open for a while: the answers are out of date.
func (a *answers) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.parts, a.timedOut = map[string]part{}, map[string]time.Time{}
	a.probes, a.tables = map[instanceKey]*probe{}, map[string]json.RawMessage{}
	a.list, a.circuits = nil, nil
}

// setPart publishes whether a part works: err is the error of the last request to it. It returns false, and publishes
// nothing, after a first timeout: a busy machine causes one now and then, above all for the first request, which waits
// for connections. Every other error, and a second timeout in a row, is published.
func (c *Console) setPart(name string, err error) (published bool) {
	next := part{OK: err == nil, Since: time.Now().UTC()}
	if err != nil {
		next.Problem = message(partNames[name], err)
	}
	old, known, all := c.answers.setPart(name, next, isTimeout(err))
	if all == nil {
		return false
	}
	if !next.OK && (!known || old.OK) {
		c.log.Warn("a backend does not answer", slog.String("part", name), slog.Any("error", err))
	}
	c.hub.publish(topicParts, all)
	return true
}

// setUnknown publishes that the state of a part is not known, and why.
func (c *Console) setUnknown(name, problem string) {
	next := part{Unknown: true, Problem: problem, Since: time.Now().UTC()}
	_, _, all := c.answers.setPart(name, next, false)
	c.hub.publish(topicParts, all)
}

// setPart stores the state of a part. It returns the state before and a copy of all states. The copy is nil if nothing
// was stored, because this is a first timeout.
func (a *answers) setPart(name string, next part, timeout bool) (old part, known bool, all map[string]part) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, known = a.parts[name]
	firstTimeout, second := a.timedOut[name]
	delete(a.timedOut, name)
	if timeout && !second && (!known || old.OK) {
		a.timedOut[name] = next.Since
		return old, known, nil
	}
	if timeout && second {
		next.Since = firstTimeout
	}
	if known && old.OK == next.OK && old.Unknown == next.Unknown {
		next.Since = old.Since
	}
	a.parts[name] = next
	return old, known, maps.Clone(a.parts)
}

// isTimeout reports whether err, of HTTP or gRPC, says that no answer came in time.
func isTimeout(err error) bool {
	return err != nil && (isNetTimeout(err) || errors.Is(errs.FromRPC(err), errs.Timeout))
}
