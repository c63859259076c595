package circuit_test

import (
	"context"
	"testing"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"github.com/sony/gobreaker/v2"
)

// BenchmarkDo compares the success path with what it is built of. The time-out's context is measured by itself: it is
// made only when the caller has no sooner deadline.
func BenchmarkDo(b *testing.B) {
	s := circuit.New(circuit.Options{})
	sooner, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	long := circuit.New(circuit.Options{Config: config.Static(map[string]string{
		"circuit.default.timeout": "3600s",
	})})
	rolling := gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second}
	plain := gobreaker.NewCircuitBreaker[struct{}](rolling)
	twoStep := gobreaker.NewTwoStepCircuitBreaker[struct{}](rolling)
	for _, bench := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"bare", succeed},
		{"gobreaker", func(ctx context.Context) error {
			_, err := plain.Execute(func() (struct{}, error) { return struct{}{}, succeed(ctx) })
			return err
		}},
		{"gobreaker-two-step", func(ctx context.Context) error {
			done, err := twoStep.Allow()
			if err != nil {
				return err
			}
			err = succeed(ctx)
			done(err)
			return err
		}},
		{"circuit", func(context.Context) error { return long.Do(sooner, getMovie, succeed) }},
		{"context-with-time-out", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return succeed(ctx)
		}},
		{"circuit-with-time-out", func(ctx context.Context) error { return s.Do(ctx, getMovie, succeed) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.call(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
