package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// requestTimeout bounds one request to the platform.
const requestTimeout = 15 * time.Second

// addresses returns the addresses of a listener of a service: from the registry if --discovery names one, else from the
// stack that runs here, where port is the listener's port in the compose file.
func (e *env) addresses(ctx context.Context, service, listener string, port int) ([]string, error) {
	var addrs []string
	if len(e.program.Discovery) > 0 {
		list, err := e.list(ctx, e.program.Discovery, service)
		if err != nil {
			return nil, err
		}
		for _, i := range list.GetInstances() {
			if addr := i.GetEndpoints()[listener]; addr != "" && i.GetStatus() == discoveryv1.Status_STATUS_UP {
				addrs = append(addrs, addr)
			}
		}
	} else {
		run, err := e.running(ctx)
		if err != nil {
			return nil, err
		}
		addrs = run.Addrs(service, port)
	}
	if len(addrs) == 0 {
		return nil, errs.Errorf(errs.Unavailable, "finding %s: no instance of it is up", service)
	}
	// Any instance can answer. The order is random, so that the first one does not get all requests.
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs, nil
}

// list asks the registry at the given addresses.
func (e *env) list(ctx context.Context, seeds []string, service string) (*discoveryv1.ListResponse, error) {
	for _, seed := range seeds {
		if _, port, err := net.SplitHostPort(strings.TrimSpace(seed)); err != nil || port == "" {
			return nil, usagef("the registry's address must be host:port, is %q; see --discovery and BIJOU_DISCOVERY",
				seed)
		}
	}
	conn, err := connect("discovery", seeds)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := ask(ctx, discoveryv1.NewDiscoveryClient(conn).List, &discoveryv1.ListRequest{Service: service})
	if errs.KindOf(err) == errs.Unavailable && err != nil {
		why := err.Error()
		if _, dialing, ok := strings.Cut(why, "Error while dialing: "); ok { // remove the prefix of gRPC
			why = strings.TrimSuffix(dialing, `"`)
		}
		return nil, errs.Errorf(errs.Unavailable, "the registry at %s does not answer: %s", strings.Join(seeds, ", "),
			why)
	}
	return list, err
}

// dial connects to any instance of a service.
func (e *env) dial(ctx context.Context, service string) (*grpc.ClientConn, error) {
	addrs, err := e.addresses(ctx, service, "grpc", grpcPort)
	if err != nil {
		return nil, err
	}
	return connect(service, addrs)
}

// connect makes a connection that uses the first address that answers.
func connect(service string, addrs []string) (*grpc.ClientConn, error) {
	known := manual.NewBuilderWithScheme("known")
	endpoints := make([]resolver.Endpoint, 0, len(addrs))
	for _, addr := range addrs {
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: strings.TrimSpace(addr)}}})
	}
	known.InitialState(resolver.State{Endpoints: endpoints})
	conn, err := grpc.NewClient("known:///"+service, grpc.WithResolvers(known),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s at %v: %w", service, addrs, err)
	}
	return conn, nil
}

// ask calls a method with requestTimeout and gives its error a kind.
func ask[Q, A any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (A, error), question Q) (A,
	error,
) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := method(ctx, question)
	if err != nil {
		err = errs.FromRPC(err)
	}
	return answer, err
}

// print prints the response of an API: with --json as protobuf's JSON, else by calling people.
func (e *env) print(answer proto.Message, people func() error) error {
	if e.program.JSON {
		return e.printProto(answer)
	}
	return people()
}

func (e *env) printProto(m proto.Message) error {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	var out bytes.Buffer // indented here, because the white space of protojson differs between builds
	if err == nil {
		err = json.Indent(&out, text, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	_, err = fmt.Fprintln(e.Stdout, out.String())
	return err
}
