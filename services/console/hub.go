package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/errs"
)

// Topics of the stream.
const (
	topicHello    = "hello"    // sent once: version and mode of this console
	topicParts    = "parts"    // which backends answer
	topicFleet    = "fleet"    // all instances
	topicTraffic  = "traffic"  // calls between services
	topicCircuits = "circuits" // circuits of each service
	topicSettings = "settings" // the settings revision of each instance
	topicRoutes   = "routes"   // the routes of each gateway
)

var topics = []string{topicParts, topicFleet, topicTraffic, topicCircuits, topicSettings, topicRoutes}

const (
	// keepAlivePeriod is how often a stream without news sends a comment, so that both sides notice a dead connection.
	keepAlivePeriod = 5 * time.Second
	// writeTimeout is how long a client may leave sent data unread before its stream ends.
	writeTimeout = 10 * time.Second
	// idleAfter is how long the backends are still asked after the last page was closed: a page that is loaded again
	// finds all states.
	idleAfter = 10 * time.Second
	// firstStateTimeout bounds the wait for the first state of a topic.
	firstStateTimeout = 5 * time.Second
)

// hub keeps the newest state of each topic and sends changes to the open pages. A page that reads slowly skips states:
// the hub keeps one state per topic, not a queue per page, so a slow page does not make memory grow.
type hub struct {
	mu       sync.Mutex
	states   map[string][]byte // topic -> JSON
	pages    map[*page]bool
	maxPages int
	lastUse  time.Time     // last request or end of a page
	active   chan struct{} // closed while the backends have to be asked
	closed   chan struct{} // closed when the process stops
	onIdle   func()        // called with mu held when the states are removed
}

// page is one open stream.
type page struct {
	topics  []string
	changed map[string]bool // topics to send; guarded by hub.mu
	wake    chan struct{}   // has a buffer of one
}

func newHub(maxPages int, onIdle func()) *hub {
	return &hub{
		onIdle: onIdle, states: map[string][]byte{}, pages: map[*page]bool{}, maxPages: maxPages,
		active: make(chan struct{}), closed: make(chan struct{}),
	}
}

// publish makes v the newest state of a topic.
func (h *hub) publish(topic string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return // impossible: the types of the topics have no fields that JSON cannot hold
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if bytes.Equal(h.states[topic], data) {
		return
	}
	h.states[topic] = data
	for p := range h.pages {
		p.markLocked(topic)
	}
}

// markLocked marks a topic as changed and wakes the stream of the page.
func (p *page) markLocked(topic string) {
	if !slices.Contains(p.topics, topic) {
		return
	}
	p.changed[topic] = true
	select {
	case p.wake <- struct{}{}:
	default: // a wake-up is pending
	}
}

// open adds a page. All topics that have a state are marked as changed.
func (h *hub) open(topics []string) (*page, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pages) >= h.maxPages {
		return nil, errs.Errorf(errs.Unavailable,
			"opening a page: %d are open, which is the limit; close one, or raise -max-pages", h.maxPages)
	}
	p := &page{topics: topics, changed: map[string]bool{}, wake: make(chan struct{}, 1)}
	h.pages[p] = true
	h.activateLocked()
	for topic := range h.states {
		p.markLocked(topic)
	}
	return p, nil
}

func (h *hub) remove(p *page) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pages, p)
	h.lastUse = time.Now()
}

// changes returns the events to send to a page, in the order of its topics.
func (h *hub) changes(p *page) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	for _, topic := range p.topics {
		if p.changed[topic] {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", topic, h.states[topic])
		}
	}
	clear(p.changed)
	return b.Bytes()
}

// get returns the state of a topic, nil if there is none, and makes the backends be asked.
func (h *hub) get(topic string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.activateLocked()
	return h.states[topic]
}

// activateLocked wakes the loops that ask the backends.
func (h *hub) activateLocked() {
	h.lastUse = time.Now()
	select {
	case <-h.active:
	default:
		close(h.active)
	}
}

// waitUntilActive waits until a page is open or a state was requested. It returns false when ctx ends. When the console
// becomes idle it removes the states, so that the next page does not get old ones.
func (h *hub) waitUntilActive(ctx context.Context) bool {
	h.mu.Lock()
	if len(h.pages) == 0 && time.Since(h.lastUse) > idleAfter {
		select {
		case <-h.active:
			h.active = make(chan struct{})
			clear(h.states)
			h.onIdle()
		default:
		}
	}
	active := h.active
	h.mu.Unlock()
	select {
	case <-active:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// isActive reports whether a page is open or was open a short time ago.
func (h *hub) isActive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pages) > 0 || time.Since(h.lastUse) <= idleAfter
}

// close ends all streams.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.closed:
	default:
		close(h.closed)
	}
}

// hello is the first event of a stream.
type hello struct {
	Version  string `json:"version"`
	ReadOnly bool   `json:"readOnly"`
	Built    bool   `json:"built"` // false: this binary has no front end
}

// stream sends server-sent events, named by topic, each with the whole state of the topic.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	wanted := topics
	if list := r.URL.Query().Get("topics"); list != "" {
		wanted = strings.Split(list, ",")
		for _, topic := range wanted {
			if !slices.Contains(topics, topic) {
				errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "opening a stream").Field("topics",
					fmt.Sprintf("has %q, which is none of %s", topic, strings.Join(topics, ", "))))
				return
			}
		}
	}
	p, err := c.hub.open(wanted)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	defer c.hub.remove(p)
	first, err := json.Marshal(hello{c.version, c.opts.ReadOnly, c.site.built})
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	send := fmt.Appendf(nil, "event: %s\ndata: %s\n\n", topicHello, first)
	keepAlive := time.NewTicker(keepAlivePeriod)
	defer keepAlive.Stop()
	rc := http.NewResponseController(w)
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has no deadlines
		if _, err := w.Write(send); err != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-p.wake:
			send = c.hub.changes(p)
		case <-keepAlive.C:
			send = []byte(": keep-alive\n\n")
		case <-c.hub.closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// state returns the newest state of one topic, for programs that ask once.
func (c *Console) state(r *http.Request) (json.RawMessage, error) {
	topic := r.PathValue("topic")
	if !slices.Contains(topics, topic) {
		return nil, errs.Errorf(errs.NotFound, "there is no topic %.200q; there are %s",
			topic, strings.Join(topics, ", "))
	}
	return c.awaitState(r.Context(), topic)
}

// awaitState returns the state of a topic. The first request after an idle time waits until the backends have answered.
func (c *Console) awaitState(ctx context.Context, topic string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, firstStateTimeout)
	defer cancel()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		if data := c.hub.get(topic); data != nil {
			return data, nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, errs.Errorf(errs.Unavailable,
				"reading %s: its service has not answered; /api/state/%s says why", topic, topicParts)
		}
	}
}
