package kvetcd_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv/kvetcd"
)

// A store opens whether etcd is there or not, and says within its time-out that it is not.
func Example() {
	store, err := kvetcd.New(kvetcd.Options{
		Endpoints: []string{"unix:///nowhere/etcd.sock"},
		Timeout:   200 * time.Millisecond,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	_, err = store.Get(context.Background(), "/films/alien")
	fmt.Println(errors.Is(err, errs.Unavailable))
	// Output: true
}
