// Package links finds who calls whom in traces, by the rules of Zipkin's dependency linker.
package links

import (
	"cmp"
	"slices"

	"bijou.dev/services/tracing/internal/span"
)

// Link is an edge of the dependency graph.
type Link struct {
	Parent string `json:"parent"`
	Child  string `json:"child"`
	Calls  int64  `json:"callCount"`
	Errors int64  `json:"errorCount,omitempty"`
}

// Graph adds up links of traces. The zero Graph is empty and ready.
type Graph struct {
	links map[[2]string]*Link
}

// Links returns the links, sorted.
func (g *Graph) Links() []Link {
	out := make([]Link, 0, len(g.links))
	for _, l := range g.links {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Link) int {
		return cmp.Or(cmp.Compare(a.Parent, b.Parent), cmp.Compare(a.Child, b.Child))
	})
	return out
}

func (g *Graph) add(parent, child string, failed bool) {
	if parent == "" || child == "" {
		return
	}
	if g.links == nil {
		g.links = make(map[[2]string]*Link)
	}
	k := [2]string{parent, child}
	l := g.links[k]
	if l == nil {
		l = &Link{Parent: parent, Child: child}
		g.links[k] = l
	}
	l.Calls++
	if failed {
		l.Errors++
	}
}

// node is a span in the tree of its trace.
type node struct {
	*span.Span
	parent   *node
	children []*node
	seen     bool
}

// Add counts the links in one trace. The spans must be merged.
func (g *Graph) Add(spans []span.Span) {
	nodes := tree(spans)
	var queue []*node
	for _, n := range nodes {
		if n.parent == nil {
			queue = append(queue, n)
		}
	}
	rest := 0
	for {
		for len(queue) > 0 {
			n := queue[0]
			queue = queue[1:]
			if !n.seen {
				n.seen = true
				g.link(n)
				queue = append(queue, n.children...)
			}
		}
		// Spans that are each other's parents have no root. The first of them becomes one.
		for rest < len(nodes) && nodes[rest].seen {
			rest++
		}
		if rest == len(nodes) {
			return
		}
		nodes[rest].parent = nil
		queue = append(queue, nodes[rest])
	}
}

// tree connects spans to parents. Under one id there may be two spans: the caller's and the shared half of the callee,
// which hangs below it. Children belong to the half in their own service, else to the callee's.
func tree(spans []span.Span) []*node {
	nodes := make([]*node, len(spans))
	byID := make(map[span.ID][]*node, len(spans))
	for i := range spans {
		nodes[i] = &node{Span: &spans[i]}
		byID[spans[i].ID] = append(byID[spans[i].ID], nodes[i])
	}
	for _, n := range nodes {
		n.parent = parentOf(n, byID)
		if n.parent != nil {
			n.parent.children = append(n.parent.children, n)
		}
	}
	return nodes
}

func parentOf(n *node, byID map[span.ID][]*node) *node {
	if n.Shared || n.Kind == span.Server {
		for _, caller := range byID[n.ID] {
			if caller != n && !caller.Shared && caller.Kind == span.Client {
				return caller
			}
		}
	}
	if n.Parent == 0 || n.Parent == n.ID {
		return nil
	}
	var best *node
	for _, p := range byID[n.Parent] {
		if p.Local.Service == n.Local.Service {
			return p
		}
		if best == nil || p.Shared {
			best = p
		}
	}
	return best
}

// link adds the links of one span.
func (g *Graph) link(n *node) {
	local, remote := n.Local.Service, n.Remote.Service
	kind := n.Kind
	if kind == span.Internal {
		if local == "" || remote == "" {
			return
		}
		kind = span.Client // both sides are known, so it is a call
	}
	switch kind {
	case span.Producer:
		g.add(local, remote, n.Failed())
		return // never link through a broker
	case span.Consumer:
		g.add(remote, local, n.Failed())
		return
	case span.Client:
		if hasCall(n.children) {
			return // the callee reported the call, and its name for itself is the best one
		}
		g.call(n, local, remote, kind)
	case span.Server:
		g.call(n, remote, local, kind)
	}
}

func (g *Graph) call(n *node, parent, child string, kind span.Kind) {
	failed := n.Failed()
	if a := remoteAncestor(n); a != nil && a.Local.Service != "" {
		above := a.Local.Service
		// Some clients report under the callee's name. Link to it; else the callee would have no caller.
		if kind == span.Client && n.Local.Service != "" && n.Local.Service != above {
			g.add(above, n.Local.Service, false)
		}
		if kind == span.Server || parent == "" {
			parent = above
		}
		// A call that both sides report failed if either says so: only the caller knows of its timeout.
		if a.Kind == span.Client && (n.Parent == a.ID || n.ID == a.ID) {
			failed = failed || a.Failed()
		}
	}
	g.add(parent, child, failed)
}

func hasCall(children []*node) bool {
	return slices.ContainsFunc(children, func(c *node) bool { return c.Kind == span.Client || c.Kind == span.Server })
}

// remoteAncestor returns the next ancestor that is not work inside of a process.
func remoteAncestor(n *node) *node {
	a := n.parent
	for a != nil && a.Kind == span.Internal {
		a = a.parent
	}
	return a
}
