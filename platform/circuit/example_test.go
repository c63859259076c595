package circuit_test

import (
	"context"
	"errors"
	"fmt"

	"bijou.dev/platform/circuit"
)

// A page shows popular titles while the recommendations are down. After 20 failures the circuit stops calling them.
func Example() {
	set := circuit.New(circuit.Options{})
	key := circuit.Key{Group: "recommendations", Method: "ForProfile"}
	calls := 0
	recommended := func(ctx context.Context) (titles string, err error) {
		err = set.Do(ctx, key, func(context.Context) error {
			calls++
			return errors.New("recommendations are down")
		})
		return titles, err
	}
	popular := func(context.Context, error) (string, error) { return "Popular: Jaws", nil }

	for range 100 {
		titles, err := circuit.Fallback(context.Background(), recommended, popular)
		if err != nil || titles != "Popular: Jaws" {
			fmt.Println(titles, err)
		}
	}
	c := set.Snapshots()[0]
	fmt.Println(c.Name, "called", calls, "times,", c.State)
	fmt.Println(c.Reason)
	fmt.Println(c.Rolling["FAILURE"], c.Rolling["SHORT_CIRCUITED"], c.Rolling["FALLBACK_SUCCESS"])

	_, err := recommended(context.Background())
	fmt.Println(circuit.Rejected(err))
	// Output:
	// recommendations.ForProfile called 20 times, STATE_OPEN
	// 20 of 20 calls failed within 10s (100 %, threshold 50 %); last: recommendations are down
	// 20 80 100
	// true
}
