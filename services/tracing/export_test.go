package tracing

import (
	"net/url"
	"time"

	"bijou.dev/services/tracing/internal/store"
)

// ParseQuery is for the fuzz test.
func ParseQuery(v url.Values) (store.Query, error) { return parseQuery(v, time.Now()) }
