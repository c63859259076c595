package kvmem_test

import (
	"context"
	"errors"
	"fmt"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
)

// Two clients share the data, as two processes would. One of them is cut off for a while.
func Example() {
	ctx := context.Background()
	store := kvmem.New()
	defer store.Close()
	peer := store.Peer()
	defer peer.Close()

	_, _ = store.Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put("/films/alien", []byte("1979"))}})
	e, err := peer.Get(ctx, "/films/alien")
	fmt.Println(string(e.Value), err)

	peer.Fail(errors.New("the cable is out"))
	_, err = peer.Get(ctx, "/films/alien")
	fmt.Println(err, errors.Is(err, errs.Unavailable))
	peer.Heal()
	_, err = peer.Get(ctx, "/films/alien")
	fmt.Println(err)
	// Output:
	// 1979 <nil>
	// reading /films/alien: the cable is out true
	// <nil>
}
