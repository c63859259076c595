package config_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"

	"github.com/google/go-cmp/cmp"
)

// inUse is what the settings of TestValuesHaveTheirType return.
type inUse struct {
	Text   string
	Flag   bool
	Number int64
	Share  float64
	Span   time.Duration
	Choice string
	Given  int64
	Bad    int64
}

func TestValuesHaveTheirType(t *testing.T) {
	set := config.Static(map[string]string{"given": "7", "bad": "seven"})
	text := config.String(set, "text", "a", config.Spec{})
	flag := config.Bool(set, "flag", false, config.Spec{})
	number := config.Int(set, "number", 5, config.Spec{Min: "1", Max: "10"})
	share := config.Float(set, "share", 0.5, config.Spec{Max: "1"})
	span := config.Duration(set, "span", time.Second, config.Spec{Min: "1ms"})
	choice := config.Enum(set, "choice", "x", []string{"x", "y"}, config.Spec{})
	given := config.Int(set, "given", 1, config.Spec{})
	bad := config.Int(set, "bad", 1, config.Spec{})

	check := func(when string, want inUse) {
		t.Helper()
		got := inUse{
			text.Get(), flag.Get(), number.Get(), share.Get(), span.Get(), choice.Get(), given.Get(), bad.Get(),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("at first", inUse{
		Text: "a", Number: 5, Share: 0.5, Span: time.Second, Choice: "x", Given: 7, Bad: 1,
	})
	for name, value := range map[string]string{
		"text": "", "flag": "true", "number": "10", "share": "1e-1",
		"span": "1m30s", "choice": "y", "given": "-8", "bad": "2",
	} {
		if err := set.Put(name, value); err != nil {
			t.Errorf("putting %s: %v", name, err)
		}
	}
	changed := inUse{
		Flag: true, Number: 10, Share: 0.1, Span: 90 * time.Second, Choice: "y", Given: -8, Bad: 2,
	}
	check("after changes", changed)
	for _, bad := range []struct{ name, value, want string }{
		{"text", "\xff", "must be UTF-8"},
		{"flag", "TRUE", "must be true or false"},
		{"number", "0", "must be at least 1, is 0"},
		{"number", "11", "must be at most 10, is 11"},
		{"number", "1.0", "whole number"},
		{"number", "9223372036854775808", "64 bits"},
		{"share", "Inf", "finite"},
		{"share", "NaN", "finite"},
		{"share", "1.01", "at most 1"},
		{"span", "1", "duration"},
		{"span", "1us", "at least 1ms"},
		{"choice", "z", "one of x, y"},
		{"text", strings.Repeat("x", config.MaxText+1), "at most 262144 bytes"},
		{"undeclared", strings.Repeat("x", config.MaxText+1), "at most 262144 bytes"},
	} {
		err := set.Put(bad.name, bad.value)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("putting %.20s in %s: got %.200v, want ...%s...", bad.value, bad.name, err, bad.want)
		}
	}
	check("after refused values", changed)
	if err := set.Put("text", strings.Repeat("x", config.MaxText)); err != nil {
		t.Errorf("putting the longest text: %v", err)
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
		"only a star": {
			func(s config.Set) { config.BoolFamily(s, "*", false, config.Spec{}) },
			"beside the star",
		},
		"default below min": {
			func(s config.Set) { config.Int(s, "a", 0, config.Spec{Min: "1"}) }, "default_value must be at least 1",
		},
		"min above max": {
			func(s config.Set) { config.Int(s, "a", 0, config.Spec{Min: "1", Max: "0"}) }, "min must be at most max",
		},
		"bound of a text": {
			func(s config.Set) { config.String(s, "a", "", config.Spec{Max: "1"}) }, "only numbers and durations",
		},
		"bound is no number": {func(s config.Set) { config.Int(s, "a", 0, config.Spec{Max: "many"}) }, "whole number"},
		"default no option": {
			func(s config.Set) { config.Enum(s, "a", "z", []string{"x"}, config.Spec{}) },
			"one of x",
		},
		"no options": {func(s config.Set) { config.Enum(s, "a", "z", nil, config.Spec{}) }, "1 to 1000"},
		"same option twice": {
			func(s config.Set) { config.Enum(s, "a", "x", []string{"x", "x"}, config.Spec{}) }, "different",
		},
		"recursive type": {func(s config.Set) { config.JSON(s, "a", loop{}, config.Spec{}) }, "cycle"},
		"nil pointer":    {func(s config.Set) { config.JSON[*limits](s, "a", nil, config.Spec{}) }, "null"},
		"bad JSON default": {
			func(s config.Set) { config.JSON(s, "a", limits{Low: 2, High: 1}, config.Spec{}) }, "low is above high",
		},
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

// call is one call of a watcher.
type call struct{ Before, After int64 }

func TestWatchersAreCalledForEachChangeInOrder(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	var calls []call
	stop := v.Watch(func(before, after int64) {
		calls = append(calls, call{before, after})
		if v.Get() < after {
			t.Errorf("Get returns %d while a watcher is called with %d", v.Get(), after)
		}
		if after == 3 { // a watcher may change settings: the call for that comes after this one
			if err := set.Put("a", "4"); err != nil {
				t.Error(err)
			}
		}
	})
	put(t, set, "a", "1", "2", "2", "3", "5") // 1 is the default: no change
	set.Remove("a")
	want := []call{{1, 2}, {2, 3}, {3, 4}, {4, 5}, {5, 1}}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	stop()
	stop()
	put(t, set, "a", "9")
	if len(calls) != len(want) {
		t.Errorf("called after stop: %v", calls[len(want):])
	}
}

// put puts values in turn.
func put(t *testing.T, set *config.StaticSet, name string, values ...string) {
	t.Helper()
	for _, text := range values {
		if err := set.Put(name, text); err != nil {
			t.Fatalf("putting %s in %s: %v", text, name, err)
		}
	}
}

// In another library the second watcher of a setting replaced the first, and a setting that had no value at the start
// could not be watched.
func TestSeveralWatchersOfASettingWithoutValue(t *testing.T) {
	set := config.Static(nil)
	handles := []*config.Value[int64]{
		config.Int(set, "a", 1, config.Spec{}), config.Int(set, "a", 1, config.Spec{}),
	}
	calls := make([][]int64, 4)
	var stops []func()
	for i := range calls {
		stops = append(stops, handles[i%2].Watch(func(_, after int64) { calls[i] = append(calls[i], after) }))
	}
	put(t, set, "a", "2", "3")
	stops[1]()
	set.Remove("a")
	for i, want := range [][]int64{{2, 3, 1}, {2, 3}, {2, 3, 1}, {2, 3, 1}} {
		if !slices.Equal(calls[i], want) {
			t.Errorf("watcher %d was called with %v, want %v", i, calls[i], want)
		}
	}
}

func TestAWatcherMayStopItself(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	calls := 0
	var stop func()
	stop = v.Watch(func(_, _ int64) { calls++; stop() })
	put(t, set, "a", "2", "3")
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

func TestNoCallBeginsAfterStop(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	var stops [2]func()
	calls := 0
	for i := range stops {
		stops[i] = v.Watch(func(_, _ int64) { calls++; stops[1-i]() }) // each stops the other one
	}
	put(t, set, "a", "2")
	if calls != 1 {
		t.Errorf("%d calls for one change, want 1: the first watcher stopped the second", calls)
	}
}

// While one goroutine calls watchers, the changes of another goroutine are in use at once, and their watchers are
// called by the first.
func TestPutDuringACallOfAWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := config.Static(nil)
		v := config.Int(set, "a", 1, config.Spec{})
		var calls []call
		proceed := make(chan struct{})
		defer v.Watch(func(before, after int64) {
			<-proceed
			calls = append(calls, call{before, after})
		})()
		go func() {
			if err := set.Put("a", "2"); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait() // the watcher is waiting
		put(t, set, "a", "3")
		if got := v.Get(); got != 3 {
			t.Errorf("the value is %d, want 3", got)
		}
		close(proceed)
		synctest.Wait()
		if diff := cmp.Diff([]call{{1, 2}, {2, 3}}, calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// TestStoppedWatchersAreNotKept guards against the leak of libraries whose callbacks cannot be taken back: a callback
// per request is then never freed.
func TestStoppedWatchersAreNotKept(t *testing.T) {
	set := config.Static(nil)
	v := config.Int(set, "a", 1, config.Spec{})
	type request struct{ body [1 << 10]byte }
	var held []weak.Pointer[request]
	for range 100 {
		r := &request{}
		held = append(held, weak.Make(r))
		stop := v.Watch(func(_, _ int64) { r.body[0]++ })
		put(t, set, "a", fmt.Sprint(len(held)))
		stop()
	}
	runtime.GC()
	for i, p := range held {
		if p.Value() != nil {
			t.Fatalf("what watcher %d captured is still referenced", i)
		}
	}
	runtime.KeepAlive(v)
}

func TestConcurrentReadersAndWriters(t *testing.T) {
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

func TestJSONValues(t *testing.T) {
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

func TestFamilyUsesTheFirstKeyThatHasAValue(t *testing.T) {
	set := config.Static(map[string]string{"circuit.default.volume": "10"})
	volume := config.IntFamily(set, "circuit.*.volume", 20, config.Spec{Min: "1"})
	v := volume.For("catalog.GetMovie", "catalog", "default")
	search := volume.For("search")
	var calls []call
	defer v.Watch(func(before, after int64) { calls = append(calls, call{before, after}) })()
	check := func(when string, want int64) {
		t.Helper()
		if got := v.Get(); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}
	check("at first", 10)
	if got := search.Get(); got != 20 {
		t.Errorf("a key without value: %d, want the default", got)
	}
	put(t, set, "circuit.catalog.GetMovie.volume", "30")
	check("the first key has a value", 30)
	put(t, set, "circuit.catalog.volume", "40")
	check("the second key has one too", 30)
	put(t, set, "circuit.default.volume", "50")
	check("the last key has another", 30)
	set.Remove("circuit.catalog.GetMovie.volume")
	check("without the value of the first key", 40)
	if err := set.Put("circuit.a.b.c.volume", "0"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a value below the bound of its family: %v", err)
	}
	if diff := cmp.Diff([]call{{10, 30}, {30, 40}}, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if volume.For("search") != search {
		t.Error("the same keys give another Value")
	}
}

func TestTheLongestPatternDeclares(t *testing.T) {
	wide := func(set config.Set) { config.IntFamily(set, "a.*", 1, config.Spec{Max: "10"}) }
	narrow := func(set config.Set) { config.IntFamily(set, "a.b.*", 1, config.Spec{Max: "100"}) }
	exact := func(set config.Set) { config.Int(set, "a.b.c", 1, config.Spec{Max: "1000"}) }
	for name, declarations := range map[string][]func(config.Set){
		"shortest first": {wide, narrow, exact}, "longest first": {exact, narrow, wide},
	} {
		t.Run(name, func(t *testing.T) {
			set := config.Static(map[string]string{"a.b.d": "50"})
			for _, declare := range declarations {
				declare(set)
			}
			for _, test := range []struct{ name, good, bad string }{
				{"a.c", "10", "11"}, {"a.b.x", "100", "101"}, {"a.b.c", "1000", "1001"},
			} {
				if err := set.Put(test.name, test.good); err != nil {
					t.Errorf("putting %s in %s: %v", test.good, test.name, err)
				}
				if err := set.Put(test.name, test.bad); errs.KindOf(err) != errs.Invalid {
					t.Errorf("putting %s in %s: error %v, want kind invalid", test.bad, test.name, err)
				}
			}
		})
	}
}

// A name that two families share belongs to the longer pattern. The Value of the other family keeps what it has if it
// cannot use the text.
func TestAFamilyIgnoresTextOfAnotherDeclaration(t *testing.T) {
	set := config.Static(nil)
	numbers := config.IntFamily(set, "a.*", 1, config.Spec{}).For("b.c")
	switches := config.BoolFamily(set, "a.b.*", false, config.Spec{}).For("c")
	put(t, set, "a.b.c", "true")
	if !switches.Get() || numbers.Get() != 1 {
		t.Errorf("the switch is %t and the number %d, want true and 1", switches.Get(), numbers.Get())
	}
}

func TestARemovedValueLosesItsProblem(t *testing.T) {
	set := config.Static(map[string]string{"a": "many"})
	config.Int(set, "a", 1, config.Spec{})
	if got := set.Entries()[0].Problem; !strings.Contains(got, "whole number") {
		t.Errorf("the problem is %q, want ...whole number...", got)
	}
	set.Remove("a")
	if got := set.Entries()[0].Problem; got != "" {
		t.Errorf("after the removal the problem is still %q", got)
	}
}

func TestEntriesShowWhatIsInUse(t *testing.T) {
	set := config.Static(map[string]string{
		"number": "99", "undeclared": "x", "switch.a.on": "true", "switch.b.on": "maybe",
	})
	config.Int(set, "number", 5, config.Spec{Doc: "How many.", Unit: "items", Max: "10"})
	config.Duration(set, "span", time.Second, config.Spec{})
	config.BoolFamily(set, "switch.*.on", false, config.Spec{})
	if err := set.Put("span", "2s"); err != nil {
		t.Fatal(err)
	}
	want := []config.Entry{
		{
			Name: "number", Value: "5", Default: "5", Layer: "default",
			Problem: "must be at most 10, is 99", Doc: "How many.",
			Unit: "items", Type: "int",
		},
		{Name: "span", Value: "2s", Default: "1s", Layer: "static", Revision: 1, Type: "duration"},
		{Name: "switch.*.on", Value: "false", Default: "false", Layer: "default", Type: "bool"},
		{Name: "switch.a.on", Value: "true", Default: "false", Layer: "static", Type: "bool"},
		{
			Name: "switch.b.on", Value: "false", Default: "false", Layer: "default",
			Problem: `must be true or false, is "maybe"`, Type: "bool",
		},
	}
	if diff := cmp.Diff(want, set.Entries()); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if got := set.Revision(); got != 1 {
		t.Errorf("revision is %d after one change, want 1", got)
	}
}
