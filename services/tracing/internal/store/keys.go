package store

import (
	"bytes"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"bijou.dev/services/tracing/internal/span"
)

// Kinds of keys in a bucket.
const (
	kindChunk = 'c'
	kindDict  = 'd'
	kindIndex = 'i'
	kindName  = 'n'
)

// seqKey holds the number of the last commit. Bucket 0 is never used for spans.
var seqKey = []byte{0, 0, 0, 0, 's', 'e', 'q'}

func bucketKey(bucket uint32) []byte { return binary.BigEndian.AppendUint32(nil, bucket) }

func appendKind(b []byte, bucket uint32, kind byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, bucket), kind)
}

func appendTrace(b []byte, bucket uint32, lo uint64) []byte {
	return binary.BigEndian.AppendUint64(appendKind(b, bucket, kindChunk), lo)
}

func appendChunk(b []byte, bucket uint32, id span.TraceID, seq uint32) []byte {
	b = binary.BigEndian.AppendUint64(appendTrace(b, bucket, id.Lo), id.Hi)
	return binary.BigEndian.AppendUint32(b, seq)
}

// tracePrefixLen is the part of a chunk's key (bucket, kind, two halves of the id, commit) that all chunks of a trace
// share in one bucket.
const tracePrefixLen = 4 + 1 + 8

// comparer orders keys by their bytes. It tells the database which part of a chunk's key a filter should remember, so
// that looking for a trace reads no block of buckets that do not have it.
var comparer = func() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "bijou.tracing.v1"
	c.Split = func(key []byte) int {
		if len(key) >= tracePrefixLen && key[4] == kindChunk {
			return tracePrefixLen
		}
		return len(key)
	}
	return &c
}()

func chunkTrace(key []byte) span.TraceID {
	return span.TraceID{Lo: binary.BigEndian.Uint64(key[5:]), Hi: binary.BigEndian.Uint64(key[13:])}
}

func appendDict(b []byte, bucket, id uint32) []byte {
	return binary.BigEndian.AppendUint32(appendKind(b, bucket, kindDict), id)
}

func appendService(b []byte, bucket uint32, service string) []byte {
	return append(append(appendKind(b, bucket, kindIndex), service...), 0)
}

// appendIndex's offset is in milliseconds from the start of the bucket.
func appendIndex(b []byte, bucket uint32, service string, offset uint32, lo uint64) []byte {
	b = binary.BigEndian.AppendUint32(appendService(b, bucket, service), offset)
	return binary.BigEndian.AppendUint64(b, lo)
}

// indexTail returns offset and trace of an index key.
func indexTail(key []byte) (offset uint32, lo uint64) {
	tail := key[len(key)-12:]
	return binary.BigEndian.Uint32(tail), binary.BigEndian.Uint64(tail[4:])
}

func appendName(b []byte, bucket uint32, t NameType, service, name string) []byte {
	b = append(appendKind(b, bucket, kindName), byte(t))
	b = append(append(b, service...), 0)
	return append(b, name...)
}

// after returns the first key behind all that begin with prefix.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil // no end: prefix is all 0xff
}
