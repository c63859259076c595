package config_test

import (
	"sync/atomic"
	"testing"

	"bijou.dev/platform/config"
)

var sink int64

// BenchmarkGet is what a setting costs on a request's path; BenchmarkFloor is the least that anything live could cost.
func BenchmarkGet(b *testing.B) {
	v := config.Int(config.Static(nil), "a", 1, config.Spec{})
	b.ReportAllocs()
	for b.Loop() {
		sink = v.Get()
	}
}

func BenchmarkFloor(b *testing.B) {
	var v atomic.Int64
	b.ReportAllocs()
	for b.Loop() {
		sink = v.Load()
	}
}

func BenchmarkGetParallel(b *testing.B) {
	v := config.Int(config.Static(nil), "a", 1, config.Spec{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var sum int64
		for pb.Next() {
			sum += v.Get()
		}
		atomic.AddInt64(&sink, sum)
	})
}
