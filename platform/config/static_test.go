package config_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
)

func TestHandlesReadTheirType(t *testing.T) {
	set := config.Static(map[string]string{"given": "7", "bad": "seven"})
	text := config.String(set, "text", "a", config.Spec{})
	flag := config.Bool(set, "flag", false, config.Spec{})
	number := config.Int(set, "number", 5, config.Spec{Min: "1", Max: "10"})
	share := config.Float(set, "share", 0.5, config.Spec{Max: "1"})
	span := config.Duration(set, "span", time.Second, config.Spec{Min: "1ms"})
	choice := config.Enum(set, "choice", "x", []string{"x", "y"}, config.Spec{})
	given := config.Int(set, "given", 1, config.Spec{})
	bad := config.Int(set, "bad", 1, config.Spec{})

	state := func() string {
		return fmt.Sprintf("%s %t %d %g %s %s %d %d", text.Get(), flag.Get(), number.Get(), share.Get(), span.Get(), choice.Get(), given.Get(), bad.Get())
	}
	if got := state(); got != "a false 5 0.5 1s x 7 1" {
		t.Fatalf("at first: %s", got)
	}
	for name, value := range map[string]string{"text": "", "flag": "true", "number": "10", "share": "1e-1", "span": "1m30s", "choice": "y", "given": "-8", "bad": "2"} {
		if err := set.Put(name, value); err != nil {
			t.Errorf("putting %s: %v", name, err)
		}
	}
	after := " true 10 0.1 1m30s y -8 2"
	if got := state(); got != after {
		t.Errorf("after changes: %s, want %s", got, after)
	}
	for _, bad := range []struct{ name, value, want string }{
		{"text", "\xff", "must be UTF-8"},
		{"flag", "TRUE", "must be true or false"},
		{"number", "0", "must be at least 1, is 0"},
		{"number", "11", "must be at most 10, is 11"},
		{"number", "1.0", "whole number"},
		{"number", "9223372036854775808", "64 bits"},
		{"share", "Inf", "finite"},
		{"share", "1.01", "at most 1"},
		{"span", "1", "duration"},
		{"span", "1us", "at least 1ms"},
		{"choice", "z", "one of x, y"},
		{"text", strings.Repeat("x", config.MaxText+1), "at most 262144 bytes"},
	} {
		err := set.Put(bad.name, bad.value)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("putting %.20s in %s: got %.200v, want ...%s...", bad.value, bad.name, err, bad.want)
		}
	}
	if got := state(); got != after {
		t.Errorf("refused values were used: %s", got)
	}
	set.Remove("number")
	if got := number.Get(); got != 5 {
		t.Errorf("a removed value leaves %d, want the default", got)
	}
}

func TestWrongDeclarationsPanic(t *testing.T) {
	type loop struct{ Next []*loop }
	for name, test := range map[string]struct {
		declare func(config.Set)
		want    string
	}{
		"empty name":          {func(s config.Set) { config.Bool(s, "", false, config.Spec{}) }, "1 to 256"},
		"empty segment":       {func(s config.Set) { config.Bool(s, "a..b", false, config.Spec{}) }, "empty segment"},
		"space":               {func(s config.Set) { config.Bool(s, "a b", false, config.Spec{}) }, "letters"},
		"star without family": {func(s config.Set) { config.Bool(s, "a.*.b", false, config.Spec{}) }, "family"},
		"family without star": {func(s config.Set) { config.BoolFamily(s, "a.b", false, config.Spec{}) }, "star"},
		"two stars":           {func(s config.Set) { config.BoolFamily(s, "a.*.b.*", false, config.Spec{}) }, "'*'"},
		"only a star":         {func(s config.Set) { config.BoolFamily(s, "*", false, config.Spec{}) }, "beside the star"},
		"default below min":   {func(s config.Set) { config.Int(s, "a", 0, config.Spec{Min: "1"}) }, "default_value must be at least 1"},
		"min above max":       {func(s config.Set) { config.Int(s, "a", 0, config.Spec{Min: "1", Max: "0"}) }, "min must be at most max"},
		"bound of a text":     {func(s config.Set) { config.String(s, "a", "", config.Spec{Max: "1"}) }, "only numbers and durations"},
		"bound is no number":  {func(s config.Set) { config.Int(s, "a", 0, config.Spec{Max: "many"}) }, "whole number"},
		"default no option":   {func(s config.Set) { config.Enum(s, "a", "z", []string{"x"}, config.Spec{}) }, "one of x"},
		"no options":          {func(s config.Set) { config.Enum(s, "a", "z", nil, config.Spec{}) }, "1 to 1000"},
		"same option twice":   {func(s config.Set) { config.Enum(s, "a", "x", []string{"x", "x"}, config.Spec{}) }, "different"},
		"recursive type":      {func(s config.Set) { config.JSON(s, "a", loop{}, config.Spec{}) }, "cycle"},
		"nil pointer":         {func(s config.Set) { config.JSON[*limits](s, "a", nil, config.Spec{}) }, "null"},
		"bad JSON default":    {func(s config.Set) { config.JSON(s, "a", limits{Low: 2, High: 1}, config.Spec{}) }, "low is above high"},
		"declared otherwise": {func(s config.Set) {
			config.Int(s, "a", 1, config.Spec{})
			config.Int(s, "a", 2, config.Spec{})
		}, "declared already"},
		"declared as another type": {func(s config.Set) {
			config.JSON(s, "a", 1, config.Spec{})
			config.JSON(s, "a", int64(1), config.Spec{})
		}, "declared already"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, test.want) {
					t.Errorf("panicked with %s, want ...%s...", got, test.want)
				}
			}()
			test.declare(config.Static(nil))
		})
	}
}

func TestDeclaringTwiceGivesTheSame(t *testing.T) {
	set := config.Static(nil)
	one := config.Int(set, "a", 1, config.Spec{Doc: "d"})
	two := config.Int(set, "a", 1, config.Spec{Doc: "d"})
	if err := set.Put("a", "3"); err != nil || one.Get() != 3 || two.Get() != 3 {
		t.Errorf("got %d and %d, error %v", one.Get(), two.Get(), err)
	}
}

func TestWatchersHearEachChangeInOrder(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	var heard []string
	stop := v.Watch(func(old, now int64) {
		heard = append(heard, fmt.Sprintf("%d->%d", old, now))
		if v.Get() < now {
			t.Errorf("Get returns %d while the watcher is told %d", v.Get(), now)
		}
		if now == 3 { // a watcher may change settings: its own call comes after this one
			if err := set.Put("a", "4"); err != nil {
				t.Error(err)
			}
		}
	})
	for _, text := range []string{"1", "2", "2", "3", "5"} { // 1 is the default: no change
		if err := set.Put("a", text); err != nil {
			t.Fatal(err)
		}
	}
	set.Remove("a")
	want := []string{"1->2", "2->3", "3->4", "4->5", "5->1"}
	if !cmp.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	stop()
	stop()
	if err := set.Put("a", "9"); err != nil || len(heard) != len(want) {
		t.Errorf("after stop heard %v", heard)
	}
}

// Each watcher of a setting hears each change, also of a setting that has no value at first. In a peer's library the second
// watcher took the place of the first, and a key that was absent at the start could not be watched.
func TestSeveralWatchersOfAnAbsentSetting(t *testing.T) {
	set := config.Static(nil)
	handles := []*config.Value[int64]{config.Int(set, "a", 1, config.Spec{}), config.Int(set, "a", 1, config.Spec{})}
	heard := make([][]int64, 4)
	var stops []func()
	for i := range heard {
		stops = append(stops, handles[i%2].Watch(func(_, now int64) { heard[i] = append(heard[i], now) }))
	}
	for _, text := range []string{"2", "3"} {
		if err := set.Put("a", text); err != nil {
			t.Fatal(err)
		}
	}
	stops[1]()
	set.Remove("a")
	for i, want := range [][]int64{{2, 3, 1}, {2, 3}, {2, 3, 1}, {2, 3, 1}} {
		if !slices.Equal(heard[i], want) {
			t.Errorf("watcher %d heard %v, want %v", i, heard[i], want)
		}
	}
}

func TestStopFromWithinTheCall(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	calls := 0
	var stop func()
	stop = v.Watch(func(_, _ int64) { calls++; stop() })
	for _, text := range []string{"2", "3"} {
		if err := set.Put("a", text); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

// TestStoppedWatchersAreNotKept guards against the leak of libraries whose callbacks cannot be taken back: a callback per
// request is then never freed.
func TestStoppedWatchersAreNotKept(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	type request struct{ body [1 << 10]byte }
	var held []weak.Pointer[request]
	for range 100 {
		r := &request{}
		held = append(held, weak.Make(r))
		stop := v.Watch(func(_, _ int64) { r.body[0]++ })
		if err := set.Put("a", fmt.Sprint(len(held))); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	runtime.GC()
	for i, p := range held {
		if p.Value() != nil {
			t.Fatalf("what watcher %d captured is still referred to", i)
		}
	}
	runtime.KeepAlive(v)
}

func TestReadersAndWritersAtOnce(t *testing.T) {
	set := config.Static(nil)
	v := config.String(set, "a", "0", config.Spec{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range 200 {
				if err := set.Put("a", fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
				stop := v.Watch(func(_, _ string) {})
				_ = v.Get() + fmt.Sprint(len(set.Entries()))
				stop()
			}
		})
	}
	group.Wait()
	if v.Get() != "199" {
		t.Errorf("at the end: %s", v.Get())
	}
}

// limits is a document with a rule of its own.
type limits struct {
	Low  int  `json:"low"`
	High int  `json:"high"`
	Wait wait `json:"wait,omitempty"`
}

func (l *limits) Validate() error {
	if l.Low > l.High {
		return errors.New("must be in order: low is above high")
	}
	if l.High == 13 {
		panic("superstition")
	}
	return nil
}

// wait reads itself from text.
type wait struct{ time.Duration }

func (w *wait) UnmarshalText(text []byte) (err error) {
	w.Duration, err = time.ParseDuration(string(text))
	return err
}

func (w wait) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

func TestJSONIsCheckedAsAWhole(t *testing.T) {
	set := config.Static(nil)
	byValue := config.JSON(set, "value", limits{Low: 1, High: 2, Wait: wait{time.Second}}, config.Spec{})
	byPointer := config.JSON(set, "pointer", &limits{Low: 1, High: 2}, config.Spec{})
	for _, name := range []string{"value", "pointer"} {
		for text, want := range map[string]string{
			`{"low":3,"high":2}`:                "low is above high",
			`{"low":1,"high":13}`:               "panicked",
			`{"low":1}`:                         "schema",
			`{"low":1,"high":2,"hihg":3}`:       "schema",
			`{"low":"1","high":2}`:              "schema",
			`{"low":1,"high":2,"wait":"a"}`:     "invalid duration",
			`{"low":1,"high":2,"wait":5}`:       "schema",
			`{"low":1,"high":2} {}`:             "must be JSON",
			`null`:                              "must",
			"{\"low\":1,\"high\":2,\"x\":\xff}": "UTF-8",
		} {
			if err := set.Put(name, text); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("putting %s in %s: got %v, want ...%s...", text, name, err, want)
			}
		}
		if err := set.Put(name, `{"low":3,"high":4,"wait":"5s"}`); err != nil {
			t.Error(err)
		}
	}
	want := limits{Low: 3, High: 4, Wait: wait{5 * time.Second}}
	if byValue.Get() != want || *byPointer.Get() != want {
		t.Errorf("got %v and %v", byValue.Get(), byPointer.Get())
	}
}

func TestFamilyTakesTheFirstKeyThatIsSet(t *testing.T) {
	set := config.Static(map[string]string{"circuit.default.volume": "10"})
	volume := config.IntFamily(set, "circuit.*.volume", 20, config.Spec{Min: "1"})
	v := volume.For("catalog.GetMovie", "catalog", "default")
	alone := volume.For("search")
	var heard []int64
	defer v.Watch(func(_, now int64) { heard = append(heard, now) })()
	put := func(key, text string, want int64) {
		t.Helper()
		if err := set.Put("circuit."+key+".volume", text); err != nil {
			t.Fatal(err)
		}
		if v.Get() != want {
			t.Errorf("after %s=%s: %d, want %d", key, text, v.Get(), want)
		}
	}
	if v.Get() != 10 || alone.Get() != 20 {
		t.Errorf("at first: %d and %d", v.Get(), alone.Get())
	}
	put("catalog.GetMovie", "30", 30)
	put("catalog", "40", 30)
	put("default", "50", 30)
	set.Remove("circuit.catalog.GetMovie.volume")
	if v.Get() != 40 {
		t.Errorf("without the first key: %d", v.Get())
	}
	if err := set.Put("circuit.a.b.c.volume", "0"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a member below the bound of its family: %v", err)
	}
	if !slices.Equal(heard, []int64{30, 40}) {
		t.Errorf("heard %v", heard)
	}
	if volume.For("search") != alone {
		t.Error("the same keys give another handle")
	}
}

func TestEntriesShowWhatIsInUse(t *testing.T) {
	set := config.Static(map[string]string{"number": "99", "undeclared": "x", "switch.a.on": "true", "switch.b.on": "maybe"})
	config.Int(set, "number", 5, config.Spec{Doc: "How many.", Unit: "items", Max: "10"})
	config.Duration(set, "span", time.Second, config.Spec{})
	config.BoolFamily(set, "switch.*.on", false, config.Spec{})
	if err := set.Put("span", "2s"); err != nil {
		t.Fatal(err)
	}
	want := []config.Entry{
		{Name: "number", Value: "5", Default: "5", Layer: "default", Problem: "must be at most 10, is 99", Doc: "How many.", Unit: "items", Type: "int"},
		{Name: "span", Value: "2s", Default: "1s", Layer: "static", Revision: 1, Type: "duration"},
		{Name: "switch.*.on", Value: "false", Default: "false", Layer: "default", Type: "bool"},
		{Name: "switch.a.on", Value: "true", Default: "false", Layer: "static", Type: "bool"},
		{Name: "switch.b.on", Value: "false", Default: "false", Layer: "default", Problem: `must be true or false, is "maybe"`, Type: "bool"},
	}
	if diff := cmp.Diff(want, set.Entries()); diff != "" {
		t.Error(diff)
	}
	if got := set.Revision(); got != 1 {
		t.Errorf("revision is %d after one change, want 1", got)
	}
}
