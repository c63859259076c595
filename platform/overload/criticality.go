package overload

import (
	"context"
	"net/http"
	"strings"

	"bijou.dev/platform/errs"
)

// Criticality says how much it hurts when a request is not served. The zero value is Critical.
type Criticality uint8

// The criticalities.
const (
	// Critical is the default: users see it when it fails.
	Critical Criticality = iota
	// CriticalPlus is for the few requests whose failure is a disaster. It is shed last.
	CriticalPlus
	// SheddablePlus may fail for minutes and be retried: batches.
	SheddablePlus
	// Sheddable may fail often, and for hours: prefetching, crawlers. It is shed first.
	Sheddable

	classes = 4
)

var names = [classes]string{"CRITICAL", "CRITICAL_PLUS", "SHEDDABLE_PLUS", "SHEDDABLE"}

// String returns the name: "SHEDDABLE_PLUS".
func (c Criticality) String() string { return names[c%classes] }

// Parse reads a name. The empty name is Critical.
func Parse(name string) (Criticality, error) {
	if name == "" {
		return Critical, nil
	}
	for c, n := range names {
		if n == name {
			return Criticality(c), nil
		}
	}
	return Critical, errs.Errorf(errs.Invalid,
		"must be one of CRITICAL_PLUS, CRITICAL, SHEDDABLE_PLUS and SHEDDABLE, is %q", name)
}

type criticalityKey struct{}

// With returns a context whose calls have criticality c.
func With(ctx context.Context, c Criticality) context.Context {
	if c == Of(ctx) {
		return ctx
	}
	return context.WithValue(ctx, criticalityKey{}, c)
}

// Of returns the criticality of a context. Without one it is Critical.
func Of(ctx context.Context) Criticality {
	c, _ := ctx.Value(criticalityKey{}).(Criticality)
	return c
}

// Header is the field of HTTP and gRPC that carries baggage, in lower case.
const Header = "baggage"

// member is the key of the criticality in baggage.
const member = "bijou.criticality"

var members = [classes]string{
	member + "=CRITICAL", member + "=CRITICAL_PLUS", member + "=SHEDDABLE_PLUS", member + "=SHEDDABLE",
}

// Baggage returns the value of [Header]: a list of one member, or "" for Critical, which is the default.
func (c Criticality) Baggage() string {
	if c == Critical || c >= classes {
		return ""
	}
	return members[c]
}

// FromBaggage finds the criticality in lines of baggage. Without a valid one it returns Critical.
func FromBaggage(lines []string) Criticality {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			key, value, ok := strings.Cut(item, "=")
			if !ok || strings.TrimSpace(key) != member {
				continue
			}
			value, _, _ = strings.Cut(value, ";") // properties are ignored
			c, err := Parse(strings.TrimSpace(value))
			if err != nil {
				return Critical
			}
			return c
		}
	}
	return Critical
}

// Middleware copies the criticality of requests into their context. Use it behind the edge, not at the edge: it trusts
// the caller.
func Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lines := r.Header["Baggage"]; lines != nil {
			if c := FromBaggage(lines); c != Critical {
				r = r.WithContext(With(r.Context(), c))
			}
		}
		next.ServeHTTP(w, r)
	})
}
