package tracing

import (
	"net/url"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bijou.dev/services/tracing/internal/store"
)

// ParseQuery is for the fuzz test.
func ParseQuery(v url.Values) (store.Query, error) { return parseQuery(v, time.Now()) }

// WithFS lets a test fill the disk.
func WithFS(o Options, fs vfs.FS) Options {
	o.fs = fs
	return o
}
