package retry_test

import (
	"context"
	"fmt"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
)

// The first instance is down; the second attempt reaches another one.
func Example() {
	budget := retry.NewBudget(nil) // one for each callee, shared by all calls
	err := retry.Do(context.Background(), retry.Policy{Budget: budget, Idempotent: true},
		func(_ context.Context, n int) error {
			fmt.Println("attempt", n)
			if n == 1 {
				return errs.Errorf(errs.Unavailable, "connection refused")
			}
			return nil
		})
	fmt.Println(err)
	// Output:
	// attempt 1
	// attempt 2
	// <nil>
}
