package rpc

import (
	"errors"
	"io"

	"bijou.dev/platform/errs"
)

// streamError gives an error of a stream its kind.
func streamError(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return errs.FromRPC(err)
}
