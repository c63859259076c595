package links_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/services/tracing/internal/links"
	"bijou.dev/services/tracing/internal/span"
)

// sp makes a span: id, parent, kind, local service, remote service, flags (e: error, s: shared).
func sp(id, parent span.ID, kind span.Kind, local, remote, flags string) span.Span {
	s := span.Span{
		Trace: span.TraceID{Lo: 1}, ID: id, Parent: parent, Kind: kind,
		Local: span.Endpoint{Service: local}, Remote: span.Endpoint{Service: remote},
	}
	for _, f := range flags {
		switch f {
		case 'e':
			s.Tags = []span.Tag{{Key: "error"}}
		case 's':
			s.Shared = true
		}
	}
	return s
}

const (
	none     = span.Internal
	client   = span.Client
	server   = span.Server
	producer = span.Producer
	consumer = span.Consumer
)

func TestLinks(t *testing.T) {
	link := func(parent, child string, calls, errors int64) links.Link {
		return links.Link{Parent: parent, Child: child, Calls: calls, Errors: errors}
	}
	tests := []struct {
		name  string
		spans []span.Span
		want  []links.Link
	}{
		{"nothing", nil, nil},
		{"a server that does not know its caller", []span.Span{sp(1, 0, server, "web", "", "")}, nil},
		{
			"a server that knows its caller",
			[]span.Span{sp(1, 0, server, "web", "app", "")},
			[]links.Link{link("app", "web", 1, 0)},
		},
		{
			"a client that knows its callee",
			[]span.Span{sp(1, 0, client, "web", "db", "")},
			[]links.Link{link("web", "db", 1, 0)},
		},
		{"a client that failed", []span.Span{sp(1, 0, client, "web", "db", "e")}, []links.Link{link("web", "db", 1, 1)}},
		{"a client that does not know its callee", []span.Span{sp(1, 0, client, "web", "", "")}, nil},
		{
			"no kind, both sides known: a client",
			[]span.Span{sp(1, 0, none, "web", "cache", "")},
			[]links.Link{link("web", "cache", 1, 0)},
		},
		{"no kind, one side known", []span.Span{sp(1, 0, none, "web", "", "")}, nil},
		{"no kind, the caller is not known", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, none, "", "db", ""),
		}, nil},
		{"no kind, the callee is not known", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, none, "catalog", "", ""),
		}, nil},
		{"both sides of a call count once", []span.Span{
			sp(1, 0, client, "web", "catalog.internal", ""), sp(2, 1, server, "catalog", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"the callee says who was called, the tree who called", []span.Span{
			sp(1, 0, client, "web", "", ""), sp(2, 1, server, "catalog", "proxy", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"the caller failed, the callee did not notice", []span.Span{
			sp(1, 0, client, "web", "catalog", "e"), sp(2, 1, server, "catalog", "", ""),
		}, []links.Link{link("web", "catalog", 1, 1)}},
		{"both failed: one error", []span.Span{
			sp(1, 0, client, "web", "catalog", "e"), sp(2, 1, server, "catalog", "", "e"),
		}, []links.Link{link("web", "catalog", 1, 1)}},
		{"shared span", []span.Span{
			sp(1, 0, client, "web", "", ""), sp(1, 0, server, "catalog", "", "s"),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"shared span whose caller failed", []span.Span{
			sp(1, 0, client, "web", "", "e"), sp(1, 0, server, "catalog", "", "s"),
		}, []links.Link{link("web", "catalog", 1, 1)}},
		{"shared span without the flag", []span.Span{
			sp(2, 1, client, "web", "", ""), sp(2, 1, server, "catalog", "", ""), sp(1, 0, server, "web", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"both sides report one id without the flag: the callee's own name counts", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "web", "catalog.internal", ""),
			sp(2, 1, server, "catalog", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"a shared span without a kind hangs below its caller", []span.Span{
			sp(1, 0, server, "gateway", "", ""), sp(2, 1, client, "web", "", ""), sp(2, 1, none, "catalog", "db", "s"),
		}, []links.Link{link("catalog", "db", 1, 0), link("gateway", "web", 1, 0), link("web", "catalog", 1, 0)}},
		{"two servers that report one id are both called by their parent", []span.Span{
			sp(1, 0, client, "web", "", ""), sp(2, 1, server, "catalog", "", ""), sp(2, 1, server, "ratings", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0), link("web", "ratings", 1, 0)}},
		{"a server that failed does not make its calls fail", []span.Span{
			sp(1, 0, server, "web", "", "e"), sp(2, 1, client, "web", "db", ""),
		}, []links.Link{link("web", "db", 1, 0)}},
		{"a call that failed does not make a call further below fail", []span.Span{
			sp(1, 0, client, "web", "", "e"), sp(2, 1, none, "web", "", ""), sp(3, 2, server, "catalog", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"children of a shared span hang below the callee", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "web", "", ""), sp(2, 1, server, "catalog", "", "s"),
			sp(3, 2, client, "catalog", "db", ""),
		}, []links.Link{link("catalog", "db", 1, 0), link("web", "catalog", 1, 0)}},
		{"work inside of a process is skipped", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, none, "web", "", ""), sp(3, 2, none, "", "", ""),
			sp(4, 3, server, "catalog", "", ""),
		}, []links.Link{link("web", "catalog", 1, 0)}},
		{"a client whose children are only work inside", []span.Span{
			sp(1, 0, client, "web", "db", ""), sp(2, 1, none, "web", "", ""),
		}, []links.Link{link("web", "db", 1, 0)}},
		{"a client without a name has that of its ancestor", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "", "db", ""),
		}, []links.Link{link("web", "db", 1, 0)}},
		{"a client with the callee's name is called by its ancestor", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "catalog", "db", ""),
		}, []links.Link{link("catalog", "db", 1, 0), link("web", "catalog", 1, 0)}},
		{"messages link to the broker", []span.Span{
			sp(1, 0, producer, "web", "kafka", ""), sp(2, 1, consumer, "mailer", "kafka", ""),
		}, []links.Link{link("kafka", "mailer", 1, 0), link("web", "kafka", 1, 0)}},
		{"messages never link through a broker that is not named", []span.Span{
			sp(1, 0, producer, "web", "", ""), sp(2, 1, consumer, "mailer", "", ""),
		}, nil},
		{"a failed message", []span.Span{sp(1, 0, producer, "web", "kafka", "e")}, []links.Link{link("web", "kafka", 1, 1)}},
		{"a call below a message", []span.Span{
			sp(1, 0, consumer, "mailer", "kafka", ""), sp(2, 1, client, "mailer", "smtp", ""),
		}, []links.Link{link("kafka", "mailer", 1, 0), link("mailer", "smtp", 1, 0)}},
		{"a service that calls itself", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "web", "web", ""), sp(3, 2, server, "web", "", ""),
		}, []links.Link{link("web", "web", 1, 0)}},
		{"the root is missing", []span.Span{
			sp(2, 1, client, "web", "", ""), sp(3, 2, server, "catalog", "", ""), sp(4, 1, client, "web", "db", ""),
		}, []links.Link{link("web", "catalog", 1, 0), link("web", "db", 1, 0)}},
		{"calls add up", []span.Span{
			sp(1, 0, server, "web", "", ""), sp(2, 1, client, "web", "db", ""), sp(3, 1, client, "web", "db", "e"),
			sp(4, 1, client, "web", "db", ""),
		}, []links.Link{link("web", "db", 3, 1)}},
		{"spans that are each other's parents", []span.Span{
			sp(1, 2, client, "web", "db", ""), sp(2, 1, none, "web", "", ""), sp(3, 3, client, "web", "cache", ""),
		}, []links.Link{link("web", "cache", 1, 0), link("web", "db", 1, 0)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g links.Graph
			g.Add(tt.spans)
			got := g.Links()
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			// The order in which spans are reported does not matter.
			var back links.Graph
			for i := range len(tt.spans) / 2 {
				j := len(tt.spans) - 1 - i
				tt.spans[i], tt.spans[j] = tt.spans[j], tt.spans[i]
			}
			back.Add(tt.spans)
			if diff := cmp.Diff(g.Links(), back.Links()); diff != "" {
				t.Errorf("links of reversed spans (-forward +back):\n%s", diff)
			}
		})
	}
}

func TestTracesAddUp(t *testing.T) {
	var g links.Graph
	for range 3 {
		g.Add([]span.Span{sp(1, 0, client, "web", "db", "e")})
	}
	want := []links.Link{{Parent: "web", Child: "db", Calls: 3, Errors: 3}}
	if diff := cmp.Diff(want, g.Links()); diff != "" {
		t.Error(diff)
	}
}
