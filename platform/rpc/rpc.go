// Package rpc makes gRPC calls and servers that have the whole platform on them, in one order.
//
// A call goes through these steps, outermost first, and each stands where it does for a reason:
//
//  1. trace: the span must show what every later step did, also when one of them refuses the call.
//  2. errors: whatever comes back from below leaves as one kind of error ([errs.Error]).
//  3. deadline: a call whose deadline has passed must not take a place in the bulkhead.
//  4. circuit: time-out, breaker and bulkhead see one logical call, however many attempts it takes; an open circuit
//     stops retries before they begin.
//  5. retry: attempts share the call's deadline and a budget, and avoid instances already tried. A server whose own
//     retries are used up says so (grpc-retry-pushback-ms: -1), and is not asked again elsewhere.
//  6. pick: each attempt chooses its instance anew.
//  7. wire.
//
// A server runs these, outermost first:
//
//  0. callee: a call for another service is refused before its message is read, see ServerOptions.Service.
//  1. trace, metrics and errors: they also see the calls that are refused.
//  2. deadline: a call whose caller does not wait any more is refused.
//  3. overload: a call that is shed must cost little, so this step comes early. The deadline comes first because an
//     expired call is no sign of overload. Health checks are never shed: a busy instance would seem to be down, and its
//     load would move to the others.
//  4. fault rule: slow or failing on purpose, by settings. Such a call counts as one in progress, like a slow handler.
//  5. recover, handler.
//
// The criticality of a call is sent with it: the server puts it into the context of the handler, and calls made with
// that context send it on.
//
// Streams have the steps trace, errors, criticality and pick. They stay open, so time-outs, success rates and bulkheads
// do not apply to them.
package rpc

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// method is what one needs to know about "/bijou.config.v1.Config/Get", worked out once.
type method struct {
	service    string // bijou.config.v1.Config
	name       string // Get
	full       string // bijou.config.v1.Config/Get
	idempotent bool   // declared in the proto: option idempotency_level
}

var methods sync.Map // full method -> *method. Bounded by the code: methods are generated, not made up by callers.

// methodOf splits a full method name and looks up whether its proto declares it idempotent.
func methodOf(full string) *method {
	if m, ok := methods.Load(full); ok {
		return m.(*method)
	}
	m := parseMethod(full)
	if m.known() {
		methods.Store(full, m)
	}
	return m
}

func parseMethod(full string) *method {
	m := &method{full: strings.TrimPrefix(full, "/")}
	if i := strings.LastIndexByte(m.full, '/'); i >= 0 {
		m.service, m.name = m.full[:i], m.full[i+1:]
	}
	if d := m.descriptor(); d != nil {
		o, _ := d.Options().(*descriptorpb.MethodOptions)
		level := o.GetIdempotencyLevel()
		m.idempotent = level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS ||
			level == descriptorpb.MethodOptions_IDEMPOTENT
	}
	return m
}

func (m *method) descriptor() protoreflect.MethodDescriptor {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(m.service))
	if err != nil {
		return nil
	}
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	return s.Methods().ByName(protoreflect.Name(m.name))
}

// known reports whether the method is one of a linked proto. A server is also asked for methods that do not exist,
// and those must not fill the map.
func (m *method) known() bool { return m.descriptor() != nil }
