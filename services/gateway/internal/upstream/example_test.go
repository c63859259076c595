package upstream_test

import (
	"fmt"

	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/upstream"
)

// A balancer gets the instances of a target.
func ExampleSet_Watch() {
	target, err := upstream.Parse("http://127.0.0.1:3000")
	if err != nil {
		fmt.Println(err)
		return
	}
	check, err := upstream.Check{Kind: upstream.CheckHTTP, Path: "/healthz"}.Complete()
	if err != nil {
		fmt.Println(err)
		return
	}
	balancer := route.New(route.Options{Service: target.String()})
	set := upstream.New(upstream.Options{})
	watch := set.Watch(target, check, func(list []upstream.Instance) {
		endpoints := make([]route.Endpoint, 0, len(list))
		for _, in := range list {
			endpoints = append(endpoints, route.Endpoint{Addr: in.Addr})
		}
		balancer.Update(endpoints)
	})
	defer watch.Stop()
	<-watch.Ready()

	picked, err := balancer.Pick(route.PickInfo{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer picked.Done(route.Success)
	fmt.Println(picked.Endpoint().Addr) // conn, err := set.Dial(ctx, target, picked.Endpoint().Addr, upstream.HTTP1)
	// Output: 127.0.0.1:3000
}
