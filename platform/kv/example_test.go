package kv_test

import (
	"context"
	"errors"
	"fmt"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
)

// A store alone: compare-and-swap, and a watch that starts with what is there.
func Example() {
	ctx := context.Background()
	store := kvmem.New()
	defer store.Close()

	first, _ := store.Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put("/films/alien", []byte("1979"))}})
	watch := store.Watch(ctx, "/films/")

	swap := kv.Txn{
		If:   []kv.Cond{kv.At("/films/alien", first)},
		Then: []kv.Op{kv.Put("/films/alien", []byte("1979, R"))},
	}
	_, err := store.Txn(ctx, swap)
	fmt.Println("swap:", err)
	_, err = store.Txn(ctx, swap)
	fmt.Println("again:", err, errors.Is(err, errs.Conflict))

	for range 2 {
		u, _ := watch.Next(ctx)
		fmt.Printf("snapshot %v: %s = %s\n", u.Snapshot, u.Puts[0].Key, u.Puts[0].Value)
	}
	// Output:
	// swap: <nil>
	// again: writing: /films/alien is at revision 2, expected 1 true
	// snapshot true: /films/alien = 1979
	// snapshot false: /films/alien = 1979, R
}
