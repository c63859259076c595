package route_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/route"
)

// The share of an endpoint in slow start is (age/window)^(1/aggression), and at least minShare.
func TestSlowStartFollowsItsSettings(t *testing.T) {
	for _, tt := range []struct {
		window, aggression, minShare string
		age                          time.Duration
		want                         float64
	}{
		{"10s", "1", "0.1", 2500 * time.Millisecond, 0.25},
		{"10s", "2", "0.1", 2500 * time.Millisecond, 0.5},
		{"10s", "0.5", "0.01", 5 * time.Second, 0.25},
		{"10s", "1", "0.3", 2500 * time.Millisecond, 0.3},
		{"5s", "1", "0.1", 2500 * time.Millisecond, 0.5},
		{"5s", "1", "0.1", 5 * time.Second, 1},
		{"0s", "1", "0.1", 0, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := route.New(route.Options{Settings: settings(t, map[string]string{
				"route.slowStart.window": tt.window, "route.slowStart.aggression": tt.aggression,
				"route.slowStart.minShare": tt.minShare,
			})})
			b.Update(endpoints("old", "", 1))
			time.Sleep(time.Minute)
			b.Update(append(endpoints("old", "", 1), endpoints("new", "", 1)...))
			time.Sleep(tt.age)
			if got := stateOf(t, b, "new0").Share; math.Abs(got-tt.want) > 0.01 {
				t.Errorf("%+v: the share is %.3f", tt, got)
			}
		})
	}
}
