package http1

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Defect is a panic in a goroutine that belongs to no request. It goes on in those of the requests, where it is caught.
type Defect struct{ text string }

// Error implements error.
func (d *Defect) Error() string { return d.text }

// Catch makes an error of a panic. It is to be deferred.
func Catch(err *error) {
	if v := recover(); v != nil {
		*err = &Defect{fmt.Sprintf("%v\n%s", v, debug.Stack())}
	}
}

// Raise panics if err is a Defect.
func Raise(err error) {
	if d, ok := errors.AsType[*Defect](err); ok {
		panic(d.text)
	}
}
