package main

import (
	"errors"
	"testing"
)

func TestOnlyTheEndOfTheTimeIsRunAgain(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, c := range []struct {
		out  string
		err  error
		want bool
	}{
		{"fuzz: elapsed: 1s\n--- FAIL: FuzzA (1.07s)\n    context deadline exceeded\nFAIL\n", failed, true},
		{"fuzz: elapsed: 1s\nPASS\n", nil, false},
		{"--- FAIL: FuzzA (0.1s)\n    a_test.go:1: context deadline exceeded\nFAIL\n", failed, false},
		{
			"--- FAIL: FuzzA (0.1s)\n    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzA/1\n",
			failed, false,
		},
	} {
		if got := isDeadline([]byte(c.out), c.err); got != c.want {
			t.Errorf("%q with the error %v is run again: %t, want %t", c.out, c.err, got, c.want)
		}
	}
}
