package configtest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"github.com/anishathalye/porcupine"
)

// Recorder publishes and reads settings through several replicas at once, and records each call with its result and its
// times. [Recorder.Check] searches for an order of these calls in which one configuration could have given the results
// (linearizability, Herlihy and Wing 1990). No other writer may publish meanwhile.
//
// Publish and History must be linearizable. Get answers from the memory of a replica, which may be behind: its result
// must be the whole of one revision, and not of a revision that does not exist yet.
type Recorder struct {
	t       testing.TB
	clients []configv1.ConfigClient
	start   time.Time
	first   state
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu  sync.Mutex
	ops []porcupine.Operation
}

// Summary has the numbers of a recording.
type Summary struct {
	// Operations is the number of all calls. Of the publishes, Acknowledged made a revision, Unchanged found the value
	// that they wanted, Stale were refused because of a newer revision, and of Unknown the writer does not know whether
	// they were written.
	Operations, Acknowledged, Unchanged, Stale, Unknown int
	// WriteGap is the longest time without an acknowledged publish. ReadErrors is how many Gets failed.
	WriteGap   time.Duration
	ReadErrors int
	// Slowest is the longest time of a call. Refusal is the median time of publishes of which the result is unknown.
	Slowest, Refusal time.Duration
}

const (
	app         = "linear"
	callTimeout = 10 * time.Second // longer than the time limits of the service, so that those are tested
)

var names = [2]string{"linear.a", "linear.b"}

// setting is a value and the revision that set it.
type setting struct {
	value string
	at    int64
}

// state is the whole configuration of the recorder's settings.
type state struct {
	head     int64
	settings [len(names)]setting
}

// op is the input of an operation.
type op struct {
	kind     kind
	reason   string // of a publish; it identifies the publish in the history
	name     int
	value    string
	expected int64
}

type kind int

const (
	publish kind = iota
	get          // from memory
	read         // from the store
)

// result is the output of an operation.
type result struct {
	outcome outcome
	state   state // of a get; of other operations, only the head
}

type outcome int

const (
	unknown outcome = iota
	done
	unchanged
	stale
)

// Record starts to publish and read through the clients until the recorder is stopped. The same seed makes the same
// choices.
func Record(t testing.TB, seed uint64, clients ...configv1.ConfigClient) *Recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{t: t, clients: clients, start: time.Now(), stop: cancel}
	for _, c := range clients {
		r.retry("declaring settings", func(ctx context.Context) error {
			_, err := c.Declare(ctx, &configv1.DeclareRequest{App: app, Properties: []*configv1.Property{
				{Name: names[0], Type: configv1.Type_TYPE_STRING}, {Name: names[1], Type: configv1.Type_TYPE_STRING},
			}})
			return err
		})
	}
	begin := fmt.Sprintf("begin %d", time.Now().UnixNano()) // a value that is not there yet
	r.retry("publishing the first values", func(ctx context.Context) error {
		resp, err := clients[0].Publish(ctx, &configv1.PublishRequest{
			Author: app, Reason: begin, Changes: []*configv1.Change{change(0, begin), change(1, begin)},
		})
		s := setting{begin, resp.GetRevision()}
		r.first = state{s.at, [...]setting{s, s}}
		return err
	})
	for w := range 2 * len(clients) {
		r.workers.Go(func() { r.work(ctx, w, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	t.Cleanup(func() { cancel(); r.workers.Wait() })
	return r
}

func change(name int, value string) *configv1.Change {
	return &configv1.Change{
		Name: names[name], Value: value, Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: app},
	}
}

// retry repeats a call that must succeed, for at most a minute.
func (r *Recorder) retry(what string, do func(context.Context) error) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(r.t.Context(), callTimeout)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || r.t.Context().Err() != nil {
			r.t.Fatalf("configtest: %s: %v", what, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// work makes one call after the other. There are few names and values, so that writers conflict.
func (r *Recorder) work(ctx context.Context, worker int, rng *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		anyClient := func() configv1.ConfigClient { return r.clients[rng.IntN(len(r.clients))] }
		in := op{
			kind: publish, name: rng.IntN(len(names)),
			reason: fmt.Sprintf("%s %d/%d", r.first.settings[0].value, worker, n),
		}
		switch choice := rng.IntN(10); {
		case choice < 2:
			r.do(worker, anyClient(), op{kind: read})
		case choice < 4:
			r.do(worker, anyClient(), op{kind: get})
		case choice < 7: // compare and swap
			if seen := r.do(worker, anyClient(), op{kind: get}); seen.outcome == done {
				in.value, in.expected = in.reason, seen.state.head
				r.do(worker, anyClient(), in)
			}
		default:
			in.value = []string{"x", "y"}[rng.IntN(2)]
			r.do(worker, anyClient(), in)
		}
		select { // few calls: the search needs memory for the square of their number
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Int64N(int64(20 * time.Millisecond)))):
		}
	}
}

// do makes one call and records it.
func (r *Recorder) do(worker int, c configv1.ConfigClient, in op) result {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	call := time.Since(r.start)
	var out result
	switch in.kind {
	case publish:
		out = result{outcome: unknown}
		resp, err := c.Publish(ctx, &configv1.PublishRequest{
			Changes: []*configv1.Change{change(in.name, in.value)}, ExpectedRevision: in.expected,
			Author: app, Reason: in.reason,
		})
		switch {
		case err == nil && len(resp.GetApplied()) == 0:
			out = result{unchanged, state{head: resp.GetRevision()}}
		case err == nil:
			out = result{done, state{head: resp.GetRevision()}}
		case errs.KindOf(err) == errs.Conflict:
			out.outcome = stale
		}
	case get:
		resp, err := c.Get(ctx, &configv1.GetRequest{
			Identity: &configv1.Identity{App: app, Instance: "recorder"}, Names: names[:],
		})
		if err == nil {
			out = result{done, state{head: resp.GetRevision()}}
			for _, v := range resp.GetValues() {
				out.state.settings[slices.Index(names[:], v.GetName())] = setting{v.GetValue(), v.GetRevision()}
			}
		}
	case read:
		resp, err := c.History(ctx, &configv1.HistoryRequest{Limit: 1})
		if err == nil && len(resp.GetRevisions()) == 1 {
			out = result{done, state{head: resp.GetRevisions()[0].GetRevision()}}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{
		ClientId: worker, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(r.start)),
	})
	return out
}

// Summary returns the numbers of what has been recorded so far.
func (r *Recorder) Summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := Summary{Operations: len(r.ops)}
	var acked, refused []int64
	for _, o := range r.ops {
		in, out := o.Input.(op), o.Output.(result)
		sum.Slowest = max(sum.Slowest, time.Duration(o.Return-o.Call))
		switch {
		case in.kind == get && out.outcome == unknown:
			sum.ReadErrors++
		case in.kind != publish:
		case out.outcome == done:
			sum.Acknowledged++
			acked = append(acked, o.Return)
		case out.outcome == unchanged:
			sum.Unchanged++
		case out.outcome == stale:
			sum.Stale++
		default:
			sum.Unknown++
			refused = append(refused, o.Return-o.Call)
		}
	}
	if slices.Sort(refused); len(refused) > 0 {
		sum.Refusal = time.Duration(refused[len(refused)/2])
	}
	slices.Sort(acked)
	for i := range acked {
		if i > 0 {
			sum.WriteGap = max(sum.WriteGap, time.Duration(acked[i]-acked[i-1]))
		}
	}
	return sum
}

// Stop ends the recording. It may be called again.
func (r *Recorder) Stop() {
	r.stop()
	r.workers.Wait()
}

// Check ends the recording. It fails the test if the results are not possible for one configuration, or if the
// history of the service does not agree with what its writers were answered. It returns the numbers of the recording.
func (r *Recorder) Check() Summary {
	r.t.Helper()
	r.Stop()
	sum := r.Summary()
	kept, states := r.history()
	if r.t.Failed() {
		return sum
	}
	end := int64(time.Since(r.start))
	var ops []porcupine.Operation
	for _, o := range r.ops {
		in, out := o.Input.(op), o.Output.(result)
		revision, written := kept[in.reason]
		switch {
		case in.kind == publish && out.outcome == done && revision != out.state.head:
			r.t.Errorf("configtest: %q was acknowledged as revision %d, the history has it at %d",
				in.reason, out.state.head, revision)
		case in.kind == publish && out.outcome != done && out.outcome != unknown && written:
			r.t.Errorf("configtest: %q was answered as no change, but is revision %d", in.reason, revision)
		case in.kind == publish && out.outcome == unknown && written: // it may have happened at any time after the call
			o.Output, o.Return = result{done, state{head: revision}}, end
		case out.outcome == unknown:
			continue // it had no effect
		case in.kind == get && out.state != states[out.state.head]:
			r.t.Errorf("configtest: a replica showed %+v, the history has %+v", out.state, states[out.state.head])
		}
		ops = append(ops, o)
	}
	result, info := porcupine.CheckOperationsVerbose(r.model(), ops, 2*time.Minute)
	if result != porcupine.Ok {
		r.t.Errorf("configtest: %d operations: linearizable: %s\n%s", len(ops), result, r.suspects(ops, info))
		file := filepath.Join(r.t.ArtifactDir(), "linearizability.html") // kept by go test -artifacts
		if err := porcupine.VisualizePath(r.model(), info, file); err != nil {
			r.t.Log(err)
		}
	}
	return sum
}

// history reads what the service keeps: the revision of each publish by its reason, and the state at each revision.
func (r *Recorder) history() (kept map[string]int64, states map[int64]state) {
	r.t.Helper()
	var list []*configv1.Revision
	for before := int64(0); before == 0 || before > r.first.head+1; {
		r.retry("reading the history", func(ctx context.Context) error {
			resp, err := r.clients[0].History(ctx, &configv1.HistoryRequest{Before: before, Limit: 500})
			if err == nil && len(resp.GetRevisions()) == 0 {
				return errs.Errorf(errs.Internal, "there is none before revision %d", before)
			}
			list = append(list, resp.GetRevisions()...)
			return err
		})
		before = list[len(list)-1].GetRevision()
	}
	current := r.first
	kept, states = map[string]int64{}, map[int64]state{current.head: current}
	for _, rev := range slices.Backward(list) {
		if rev.GetRevision() <= r.first.head {
			continue
		}
		if rev.GetRevision() != current.head+1 || rev.GetAuthor() != app ||
			kept[rev.GetReason()] != 0 || len(rev.GetChanges()) != 1 {
			r.t.Errorf("configtest: after revision %d the history has %v", current.head, rev)
			return nil, nil
		}
		current.head = rev.GetRevision()
		c := rev.GetChanges()[0]
		current.settings[slices.Index(names[:], c.GetName())] = setting{c.GetAfter(), current.head}
		kept[rev.GetReason()], states[current.head] = current.head, current
	}
	return kept, states
}

// model is a configuration that makes one call after the other.
func (r *Recorder) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return r.first },
		Step: func(s, input, output any) (bool, any) {
			current, in, out := s.(state), input.(op), output.(result)
			mine := current.settings[in.name]
			switch {
			case in.kind == get:
				return out.state.head <= current.head, current
			case in.kind == read || out.outcome == unchanged && mine.value == in.value:
				return out.state.head == current.head, current
			case out.outcome == stale:
				return mine.at > in.expected, current
			case out.outcome == done && out.state.head == current.head+1 && (in.expected == 0 || mine.at <= in.expected):
				current.head++
				current.settings[in.name] = setting{in.value, current.head}
				return true, current
			}
			return false, current
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
		DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
	}
}

// suspects describes the first operations that the longest partial order does not contain.
func (r *Recorder) suspects(ops []porcupine.Operation, info porcupine.LinearizationInfo) (text string) {
	placed := map[any]bool{}
	longest := 0
	for _, attempt := range info.PartialLinearizationsOperations()[0] {
		if len(attempt) > longest {
			longest = len(attempt)
			clear(placed)
			for _, o := range attempt {
				placed[[2]int64{o.Call, int64(o.ClientId)}] = true
			}
		}
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	n := 0
	for _, o := range ops {
		if !placed[[2]int64{o.Call, int64(o.ClientId)}] && n < 5 {
			n++
			text += fmt.Sprintf("  writer %d, %v to %v: %+v -> %+v\n",
				o.ClientId, time.Duration(o.Call), time.Duration(o.Return), o.Input, o.Output)
		}
	}
	return text
}
