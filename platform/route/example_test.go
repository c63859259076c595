package route_test

import (
	"fmt"

	"bijou.dev/platform/route"
)

// A balancer alone: no configuration, no discovery, no gRPC.
func Example() {
	b := route.New(route.Options{Service: "catalog", Zone: "a"})
	b.Update([]route.Endpoint{
		{ID: "catalog-1", Addr: "10.0.0.1:8080", Zone: "a"},
		{ID: "catalog-2", Addr: "10.0.0.2:8080", Zone: "a"},
		{ID: "catalog-3", Addr: "10.0.1.1:8080", Zone: "b"},
	})

	first, err := b.Pick(route.PickInfo{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("zone", first.Endpoint().Zone) // send the request to first.Endpoint().Addr ...
	first.Done(route.Unreachable)              // ... and tell how it went

	retry, err := b.Pick(route.PickInfo{Exclude: []string{"catalog-1", "catalog-2"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(retry.Why())
	retry.Done(route.Success)

	_, err = b.Pick(route.PickInfo{Exclude: []string{"catalog-1", "catalog-2", "catalog-3"}})
	fmt.Println(err)
	// Output:
	// zone a
	// catalog-3 (cost 0s), widened, 3 of 3 ready, 0 ejected, 2 excluded
	// picking an instance of catalog: 3 known, 0 not ready, 0 ejected, 3 excluded by earlier attempts
}
