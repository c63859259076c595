package term

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Span is a span in the JSON of Zipkin's API.
type Span struct {
	TraceID  string            `json:"traceId"`
	ID       string            `json:"id"`
	ParentID string            `json:"parentId,omitempty"`
	Name     string            `json:"name"`
	Kind     string            `json:"kind,omitempty"`
	Start    int64             `json:"timestamp"` // µs since 1970
	Duration int64             `json:"duration"`  // µs
	Local    *Endpoint         `json:"localEndpoint,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Shared   bool              `json:"shared,omitempty"`
}

// Endpoint names a service.
type Endpoint struct {
	Service string `json:"serviceName"`
}

// Title is the text for the span: method and path of an HTTP request, because the name has only its route; a gRPC
// method without its package, "Catalog/GetMovie"; the name of any other span.
func (s Span) Title() string {
	if path := s.Tags["url.path"]; path != "" && s.Kind == "SERVER" {
		return s.Tags["http.request.method"] + " " + path
	}
	service, method, ok := strings.Cut(s.Name, "/")
	if !ok {
		return s.Name
	}
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + method
}

// Took is how long the span lasted, for people.
func (s Span) Took() string { return micros(s.Duration) }

// ServiceName is the service of the span, "?" if unknown.
func (s Span) ServiceName() string {
	if s.Local == nil || s.Local.Service == "" {
		return "?"
	}
	return s.Local.Service
}

// Failed reports whether the span has an error, and its text.
func (s Span) Failed() (string, bool) {
	problem, failed := s.Tags["error"]
	return problem, failed
}

// node is a span at its depth below the root.
type node struct {
	Span
	depth int
}

// Why returns the decisions of the platform that the span carries, "circuit.state=closed", sorted.
func (s Span) Why() []string {
	var why []string
	for key, value := range s.Tags {
		if name, ok := strings.CutPrefix(key, "bijou."); ok {
			why = append(why, name+"="+value)
		}
	}
	slices.Sort(why)
	return why
}

// Waterfall draws the spans of one trace: the tree of calls on the left, when each ran on the right, and below each
// span its decisions if why is set.
func Waterfall(w io.Writer, s Style, columns int, spans []Span, why bool) error {
	if len(spans) == 0 {
		return nil
	}
	nodes := tree(spans)
	begin, end := extent(spans)
	labelWidth, services := 0, map[string]bool{}
	for _, n := range nodes {
		labelWidth = max(labelWidth, width(label(Style{}, n)))
		services[n.ServiceName()] = true
	}
	labelWidth = min(labelWidth, columns/2)
	barWidth := max(10, columns-labelWidth-13)
	err := Fprintf(w, "trace %s  %d spans  %d services  %s  %s\n\n", s.Bold(spans[0].TraceID), len(spans),
		len(services), micros(end-begin), time.UnixMicro(begin).Local().Format(time.DateTime))
	for _, n := range nodes {
		if err != nil {
			return err
		}
		text := Pad(Cut(label(s, n), labelWidth), labelWidth)
		err = Fprintf(w, "%s  %8s  %s\n", text, micros(n.Duration), bar(s, n, begin, end, barWidth))
		if problem, failed := n.Failed(); failed && err == nil {
			err = Fprintf(w, "%s%s\n", strings.Repeat("  ", n.depth+1),
				s.Red("error: "+string(Cut(Plain(cmp.Or(problem, "yes")), columns-2*n.depth-10))))
		}
		if reasons := n.Why(); why && len(reasons) > 0 && err == nil {
			err = Fprintf(w, "%s%s\n", strings.Repeat("  ", n.depth+1), s.Dim(strings.Join(reasons, "  ")))
		}
	}
	return err
}

func label(s Style, n node) Painted {
	kind := ""
	if n.Kind == "CLIENT" || n.Kind == "PRODUCER" {
		kind = "→ "
	}
	name := s.Name(n.ServiceName(), n.ServiceName())
	return Sprintf("%s%s %s%s", strings.Repeat("  ", n.depth), name, kind, n.Title())
}

// bar is the time of a span within the whole trace.
func bar(s Style, n node, begin, end int64, columns int) Painted {
	whole := max(1, end-begin)
	from := int(int64(columns-1) * max(0, n.Start-begin) / whole)
	length := max(1, int(int64(columns)*n.Duration/whole))
	length = min(length, columns-from)
	fill := strings.Repeat("▆", length)
	if _, failed := n.Failed(); failed {
		return Painted(strings.Repeat(" ", from)) + s.Red(fill)
	}
	return Painted(strings.Repeat(" ", from)) + s.Name(n.ServiceName(), fill)
}

func extent(spans []Span) (begin, end int64) {
	begin = spans[0].Start
	for _, sp := range spans {
		begin, end = min(begin, sp.Start), max(end, sp.Start+sp.Duration)
	}
	return begin, end
}

func micros(us int64) string {
	d := time.Duration(us) * time.Microsecond
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(us)/1000)
	default:
		return fmt.Sprintf("%dµs", us)
	}
}

// tree orders spans as calls: each below its parent, siblings by start. A span whose parent is missing is a root. The
// server's half of a shared span is below the client's.
func tree(spans []Span) []node {
	key := func(sp Span) string {
		if sp.Shared {
			return sp.ID + "/shared"
		}
		return sp.ID
	}
	known := map[string]bool{}
	for _, sp := range spans {
		known[key(sp)] = true
	}
	children := map[string][]Span{}
	for _, sp := range spans {
		parent := sp.ParentID
		switch {
		case sp.Shared && known[sp.ID]:
			parent = sp.ID
		case known[parent+"/shared"]: // the spans of a server are below the server's half
			parent += "/shared"
		case !known[parent] || parent == sp.ID:
			parent = ""
		}
		children[parent] = append(children[parent], sp)
	}
	var nodes []node
	seen := map[string]bool{}
	var walk func(parent string, depth int)
	walk = func(parent string, depth int) {
		slices.SortStableFunc(children[parent], func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
		for _, sp := range children[parent] {
			if !seen[key(sp)] { // spans can be each other's parents
				seen[key(sp)] = true
				nodes = append(nodes, node{sp, depth})
				walk(key(sp), depth+1)
			}
		}
	}
	walk("", 0)
	for _, sp := range spans {
		if !seen[key(sp)] {
			seen[key(sp)] = true
			nodes = append(nodes, node{sp, 0})
			walk(key(sp), 1)
		}
	}
	return nodes
}
