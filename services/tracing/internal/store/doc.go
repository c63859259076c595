// Package store keeps spans on disk, in an embedded LSM tree (Pebble).
//
// # Layout
//
// Time is divided into buckets of at most 15 minutes. Every key begins with its bucket, so that old spans are deleted
// with one range delete and whole files, and keys of new spans never sort among old ones:
//
//	bucket 'c' trace-lo trace-hi seq      -> chunk: the spans of one trace in one commit
//	bucket 'd' id                         -> a string of the bucket's dictionary
//	bucket 'i' service 0 offset trace-lo  -> summary: a service took part in a trace at that time
//	bucket 'n' type service 0 name        -> nothing: names that can be listed
//
// Chunks of one trace are adjacent, also when its spans come late or from several senders. The lower half of the id
// comes first, so that 64-bit and 128-bit ids of one trace meet. A chunk refers to strings of the dictionary by number;
// a tag value gets a number when it is seen for the second time, so that values that never repeat do not fill it.
//
// A trace is found by looking into each bucket (a few microseconds each). A search walks the index of a service, or of
// all services at once, from new to old, skips what the summary rules out, reads the remaining traces and tests them.
// Dependencies are read in the order of trace ids from all buckets of the time range at once, one trace at a time.
//
// # Promise
//
// When Add returns nil the spans are on disk and synced: concurrent calls share one commit. When there is no space, Add
// refuses, and accepts spans again as soon as there is. When the disk fails to write or sync, the store stops, see
// [Store.Failed]: after a failed fsync it is unknown what is on disk.
package store
