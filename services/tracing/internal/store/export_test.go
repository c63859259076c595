package store

import (
	"context"

	"bijou.dev/services/tracing/internal/span"
)

// Flush writes memory to files, so that a test can measure them.
func (s *Store) Flush() error {
	if err := s.db.Flush(); err != nil {
		return err
	}
	return s.db.Compact(context.Background(), bucketKey(0), bucketKey(1<<32-1), false)
}

// DecodeChunk is for the fuzz test.
func DecodeChunk(b []byte, strings []string, bare bool) ([]span.Span, error) {
	d := decoder{b: b, strings: strings, bare: bare}
	return d.chunk(nil, span.TraceID{Lo: 1}, 0)
}

// EncodeChunk is its opposite, without a dictionary.
func EncodeChunk(spans []span.Span) []byte {
	e := encoder{intern: func(string, bool) (uint32, bool) { return 0, false }}
	list := make([]*span.Span, len(spans))
	for i := range spans {
		list[i] = &spans[i]
	}
	e.chunk(list, 0)
	return e.buf
}
