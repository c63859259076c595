package e2e

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	breakers "bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/services/circuits"
	"bijou.dev/services/config/configtest"

	"google.golang.org/protobuf/types/known/durationpb"
)

// An operator forces a circuit through the service circuits. That service publishes a setting with an expiry. The
// config service sends it to the process and removes it when the time is over, also when the service circuits is down.
func TestForcedCircuitIsReleasedAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settings := configtest.NewServer(t, nil)
		set := settings.Follow(t, &configv1.Identity{App: "web", Instance: "web-1"})
		calls := breakers.New(breakers.Options{Config: set, Service: "web", Instance: "web-1"})
		board := circuits.NewBoard(circuits.BoardOptions{Config: settings.Client(t)})
		key := breakers.Key{Group: "catalog", Method: "GetMovie"}
		call := func(err error) error {
			return calls.Do(t.Context(), key, func(context.Context) error { return err })
		}
		shows := func(want circuitsv1.State) {
			t.Helper()
			if got := calls.Snapshots()[0].GetState(); got != want {
				t.Errorf("circuit %s: state %v, want %v", key, got, want)
			}
		}
		force := func(state circuitsv1.State) {
			t.Helper()
			_, err := board.Force(t.Context(), &circuitsv1.ForceRequest{
				Service: "web", Name: key.String(), State: state, Ttl: durationpb.New(30 * time.Second), Author: "ann",
				Reason: "drill",
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := call(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // until the process has declared its settings

		force(circuitsv1.State_STATE_FORCED_OPEN)
		shows(circuitsv1.State_STATE_FORCED_OPEN)
		if err := call(nil); !breakers.Rejected(err) {
			t.Errorf("a call while the circuit is forced open: %v, want a rejection", err)
		}
		time.Sleep(28 * time.Second)
		shows(circuitsv1.State_STATE_FORCED_OPEN)
		time.Sleep(3 * time.Second)
		shows(circuitsv1.State_STATE_CLOSED)
		if err := call(nil); err != nil {
			t.Errorf("a call after the circuit was released: %v, want success", err)
		}

		force(circuitsv1.State_STATE_FORCED_CLOSED)
		board.Close()
		down := errors.New("down")
		for range 100 {
			if err := call(down); !errors.Is(err, down) {
				t.Fatalf("a call while the circuit is forced closed: %v, want the error of the callee", err)
			}
		}
		shows(circuitsv1.State_STATE_FORCED_CLOSED)
		time.Sleep(31 * time.Second)
		shows(circuitsv1.State_STATE_CLOSED)
		for range 20 {
			_ = call(down)
		}
		shows(circuitsv1.State_STATE_OPEN)
		if err := call(nil); !breakers.Rejected(err) || errs.RetryAfter(err) == 0 {
			t.Errorf("a call after 20 failures: %v, want a rejection with a delay for the retry", err)
		}
	})
}
