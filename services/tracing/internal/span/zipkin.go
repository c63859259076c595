package span

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bijou.dev/platform/text"
)

// wire is a span in Zipkin v2 JSON. Times are microseconds.
type wire struct {
	TraceID     string            `json:"traceId"`
	ParentID    string            `json:"parentId,omitempty"`
	ID          string            `json:"id"`
	Kind        string            `json:"kind,omitempty"`
	Name        string            `json:"name,omitempty"`
	Timestamp   int64             `json:"timestamp,omitempty"`
	Duration    int64             `json:"duration,omitempty"`
	Local       *wireEndpoint     `json:"localEndpoint,omitempty"`
	Remote      *wireEndpoint     `json:"remoteEndpoint,omitempty"`
	Annotations []wireNote        `json:"annotations,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Debug       bool              `json:"debug,omitempty"`
	Shared      bool              `json:"shared,omitempty"`
}

type wireEndpoint struct {
	ServiceName string `json:"serviceName,omitempty"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	Port        int    `json:"port,omitempty"`
}

type wireNote struct {
	Timestamp int64  `json:"timestamp"`
	Value     string `json:"value"`
}

// MarshalJSON returns the span in Zipkin v2 JSON.
func (s Span) MarshalJSON() ([]byte, error) {
	w := wire{
		TraceID: s.Trace.String(), ID: s.ID.String(), Kind: s.Kind.String(), Name: s.Name,
		Timestamp: s.Start, Duration: s.Duration, Local: s.Local.wire(), Remote: s.Remote.wire(),
		Debug: s.Debug, Shared: s.Shared,
	}
	if s.Parent != 0 {
		w.ParentID = s.Parent.String()
	}
	for _, a := range s.Annotations {
		w.Annotations = append(w.Annotations, wireNote{a.At, a.Value})
	}
	if len(s.Tags) > 0 {
		w.Tags = make(map[string]string, len(s.Tags))
		for _, t := range s.Tags {
			w.Tags[t.Key] = t.Value
		}
	}
	return json.Marshal(w)
}

func (e Endpoint) wire() *wireEndpoint {
	if e == (Endpoint{}) {
		return nil
	}
	w := &wireEndpoint{ServiceName: e.Service, Port: int(e.Port)}
	if e.IPv4.IsValid() {
		w.IPv4 = e.IPv4.String()
	}
	if e.IPv6.IsValid() {
		w.IPv6 = e.IPv6.String()
	}
	return w
}

// UnmarshalJSON reads Zipkin v2 JSON.
func (s *Span) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	return s.fromWire(&w)
}

// ParseZipkin reads a list of spans in Zipkin v2 JSON. Text that is not a JSON list is an error.
func ParseZipkin(b []byte) (Parsed, error) {
	if tooManyObjects(b) {
		return Parsed{}, ErrTooMany
	}
	var p Parsed
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return Parsed{}, errors.New("reading Zipkin v2 JSON: it must be a list of spans")
	}
	for i := 0; d.More(); i++ {
		if i == MaxSpans {
			return Parsed{}, ErrTooMany
		}
		var w wire
		var s Span
		err := d.Decode(&w)
		if _, wrongType := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !wrongType {
			return Parsed{}, fmt.Errorf("reading Zipkin v2 JSON: span %d: %w", i, err)
		}
		if err == nil {
			err = s.fromWire(&w)
		}
		if err != nil {
			p.reject(fmt.Errorf("reading Zipkin v2 JSON: span %d: %w", i, err))
			continue
		}
		p.Spans = append(p.Spans, s)
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return Parsed{}, fmt.Errorf("reading Zipkin v2 JSON: the list does not end: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Parsed{}, errors.New("reading Zipkin v2 JSON: there is text after the list")
	}
	return p, nil
}

func (s *Span) fromWire(w *wire) (err error) {
	*s = Span{
		Name: w.Name, Start: w.Timestamp, Duration: w.Duration, Local: w.Local.endpoint(), Remote: w.Remote.endpoint(),
		Debug: w.Debug, Shared: w.Shared,
	}
	if s.Trace, err = ParseTraceID(w.TraceID); err != nil {
		return fmt.Errorf("traceId: %w", err)
	}
	if s.ID, err = parseID(w.ID); err != nil || s.ID == 0 {
		return fmt.Errorf("id: %q must be 1 to 16 hex digits, not all zero", text.Bound(w.ID, 40))
	}
	if w.ParentID != "" {
		if s.Parent, err = parseID(w.ParentID); err != nil {
			return fmt.Errorf("parentId: %q must be 1 to 16 hex digits", text.Bound(w.ParentID, 40))
		}
	}
	kind := slices.Index(kindNames[:], strings.ToUpper(w.Kind))
	if kind < 0 {
		return fmt.Errorf("kind: %q must be CLIENT, SERVER, PRODUCER or CONSUMER", text.Bound(w.Kind, 40))
	}
	s.Kind = Kind(kind)
	if w.Timestamp < 0 || w.Duration < 0 {
		return errors.New("timestamp, duration: must not be negative")
	}
	for _, a := range w.Annotations {
		s.Annotations = append(s.Annotations, Annotation{a.Timestamp, a.Value})
	}
	for k, v := range w.Tags {
		s.Tags = append(s.Tags, Tag{k, v})
	}
	slices.SortFunc(s.Tags, func(a, b Tag) int { return strings.Compare(a.Key, b.Key) })
	return nil
}

func parseID(h string) (ID, error) {
	if strings.ContainsAny(h, "+-_") {
		return 0, strconv.ErrSyntax
	}
	id, err := strconv.ParseUint(h, 16, 64)
	return ID(id), err
}

// endpoint leaves out an address that cannot be read, as Zipkin does.
func (w *wireEndpoint) endpoint() Endpoint {
	if w == nil {
		return Endpoint{}
	}
	e := Endpoint{Service: w.ServiceName}
	e.setIP(w.IPv4)
	e.setIP(w.IPv6)
	if w.Port > 0 && w.Port < 1<<16 {
		e.Port = uint16(w.Port)
	}
	return e
}

// setIP sets the address s and reports whether it is one.
func (e *Endpoint) setIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return false
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		e.IPv4 = ip
	} else {
		e.IPv6 = ip
	}
	return true
}
