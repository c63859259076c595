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
	topicHello    = "hello"    // once: what this console is
	topicParts    = "parts"    // which back ends answer
	topicFleet    = "fleet"    // every instance
	topicTraffic  = "traffic"  // who calls whom
	topicCircuits = "circuits" // the board
	topicSettings = "settings" // who runs which revision
	topicRoutes   = "routes"   // the table of each gateway
)

var topics = []string{topicParts, topicFleet, topicTraffic, topicCircuits, topicSettings, topicRoutes}

const (
	// beat is how often a page hears something although nothing is new, so that both sides notice a dead connection.
	beat = 5 * time.Second
	// writeLimit is how long a page may leave an event unread.
	writeLimit = 10 * time.Second
	// linger is how long the others are still asked after the last page has gone: a reload finds everything there.
	linger = 10 * time.Second
)

// hub holds the newest state of each topic and tells pages what is new. A page that reads slowly skips states: it has
// one place for each topic, and what is in it is replaced, so no page can make the console's memory grow.
type hub struct {
	mu     sync.Mutex
	now    map[string][]byte // topic -> JSON
	pages  map[*page]bool
	max    int
	asked  time.Time     // when somebody last wanted to know
	wanted chan struct{} // is closed while somebody wants to know
	closed chan struct{}
	forget func() // is called with mu held when the states are forgotten
}

// page is one open stream.
type page struct {
	topics []string
	fresh  map[string]bool // guarded by hub.mu
	wake   chan struct{}   // has one place
}

func newHub(maxPages int, forget func()) *hub {
	return &hub{
		forget: forget, now: map[string][]byte{}, pages: map[*page]bool{}, max: maxPages,
		wanted: make(chan struct{}), closed: make(chan struct{}),
	}
}

// publish makes v the newest state of a topic.
func (h *hub) publish(topic string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return // cannot be: the types hold nothing that JSON lacks
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if bytes.Equal(h.now[topic], data) {
		return
	}
	h.now[topic] = data
	for p := range h.pages {
		p.tell(topic)
	}
}

// tell marks a topic as new. The caller holds hub.mu.
func (p *page) tell(topic string) {
	if !slices.Contains(p.topics, topic) {
		return
	}
	p.fresh[topic] = true
	select {
	case p.wake <- struct{}{}:
	default: // it is awake
	}
}

// open adds a page, which gets all that is known at once.
func (h *hub) open(topics []string) (*page, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pages) >= h.max {
		return nil,
			errs.Errorf(errs.Unavailable, "opening a page: %d are open, which is the limit; close one, or raise -max-pages",
				h.max)
	}
	p := &page{topics: topics, fresh: map[string]bool{}, wake: make(chan struct{}, 1)}
	h.pages[p] = true
	h.wantLocked()
	for topic := range h.now {
		p.tell(topic)
	}
	return p, nil
}

func (h *hub) leave(p *page) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pages, p)
	h.asked = time.Now()
}

// take returns the events that a page has not had.
func (h *hub) take(p *page) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	for _, topic := range p.topics {
		if p.fresh[topic] {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", topic, h.now[topic])
		}
	}
	clear(p.fresh)
	return b.Bytes()
}

func (h *hub) get(topic string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wantLocked()
	return h.now[topic]
}

// wantLocked wakes those who ask the other services.
func (h *hub) wantLocked() {
	h.asked = time.Now()
	select {
	case <-h.wanted:
	default:
		close(h.wanted)
	}
}

// interest waits until somebody wants to know, and reports false when ctx ends. While nobody does, the states are
// forgotten: an old picture must not be taken for the present.
func (h *hub) interest(ctx context.Context) bool {
	h.mu.Lock()
	if len(h.pages) == 0 && time.Since(h.asked) > linger {
		select {
		case <-h.wanted:
			h.wanted = make(chan struct{})
			clear(h.now)
			h.forget()
		default:
		}
	}
	wanted := h.wanted
	h.mu.Unlock()
	select {
	case <-wanted:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// busy reports whether somebody looks.
func (h *hub) busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pages) > 0 || time.Since(h.asked) <= linger
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.closed:
	default:
		close(h.closed)
	}
}

// stream is the one stream of a page: server-sent events named by topic, each with the whole state of the topic.
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
	defer c.hub.leave(p)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	hello, err := json.Marshal(map[string]any{"version": c.version, "readOnly": c.opts.ReadOnly, "built": c.site.built})
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	send := fmt.Appendf(nil, "event: %s\ndata: %s\n\n", topicHello, hello)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	rc := http.NewResponseController(w)
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(writeLimit)) // a network in memory may have none
		if _, err := w.Write(send); err != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-p.wake:
			send = c.hub.take(p)
		case <-tick.C:
			send = []byte(": beat\n\n")
		case <-c.hub.closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// state answers with the newest state of one topic, for programs that ask once.
func (c *Console) state(w http.ResponseWriter, r *http.Request) {
	topic := r.PathValue("topic")
	if !slices.Contains(topics, topic) {
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "there is no topic %q; there are %s", topic,
			strings.Join(topics, ", ")))
		return
	}
	data, err := c.fresh(r.Context(), topic)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	writeJSON(w, data)
}

// fresh waits for a topic's first state: whoever asks first finds a console that has asked nobody yet.
func (c *Console) fresh(ctx context.Context, topic string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if data := c.hub.get(topic); data != nil {
			return data, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errs.Errorf(errs.Unavailable, "reading %s: its service has not answered; ask /api/state/%s why", topic,
				topicParts)
		}
	}
}

func writeJSON(w http.ResponseWriter, data []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(data) // the client may be gone
}

func notFound(w http.ResponseWriter, r *http.Request) {
	errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "there is nothing at %s %s", r.Method, r.URL.Path))
}
