package config_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"
)

// failing is a store whose writes fail with an error as that of a network, while its watches work.
type failing struct {
	*kvmem.Store
	err     error
	written bool // the write is done all the same
}

func (s *failing) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	if s.err == nil || len(txn.Then) == 0 {
		return s.Store.Txn(ctx, txn)
	}
	if s.written {
		if _, err := s.Store.Txn(ctx, txn); err != nil {
			return 0, err
		}
	}
	return 0, s.err
}

// brokenPipe is the text of an error that only operators of the store should see.
const brokenPipe = "rpc error: write tcp 10.0.0.1:2379: broken pipe"

// A writer that gets an error of the store reads that the value was not the problem, whether something may have been
// written, and nothing about connections.
func TestErrorsOfTheStoreDifferFromErrorsOfTheRequest(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		written bool
		kind    errs.Kind
		reason  string
		text    string
	}{
		"no answer, not written": {
			errs.Errorf(errs.Unavailable, brokenPipe), false,
			errs.Unavailable, "MAY_HAVE_BEEN_WRITTEN", "look at the history before you publish again",
		},
		"no answer, written": {
			errs.Errorf(errs.Unavailable, brokenPipe), true,
			errs.Unavailable, "MAY_HAVE_BEEN_WRITTEN", "look at the history before you publish again",
		},
		"full": {
			errs.Errorf(errs.Exhausted, "etcdserver: mvcc: database space exceeded, %s", brokenPipe), false,
			errs.Unavailable, "STORE_UNAVAILABLE", "is full or overloaded; nothing was written",
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &failing{Store: kvmem.New(), written: test.written}
			c := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
			declare(t, c)
			store.err = test.err
			_, err := c.Publish(t.Context(), change(set("greeting", "hi")))
			wantKind(t, err, test.kind)
			if got := errs.Reason(err); got != test.reason {
				t.Errorf("reason is %q, want %q", got, test.reason)
			}
			if text := err.Error(); !strings.Contains(text, test.text) || strings.Contains(text, "rpc") ||
				strings.Contains(text, "tcp") || strings.Contains(text, "etcdserver") {
				t.Errorf("text is %q, want ...%s... and no words about the connection", text, test.text)
			}
		})
	}
}

// While the store is known to be away, all that needs it is refused at once, with the same reason.
func TestRefusalsWhileTheStoreIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, stores := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		publish(t, c, set("greeting", "hi"))
		publish(t, c, set("greeting", "ho"))
		synctest.Wait()
		stores[0].Fail(errors.New(brokenPipe))
		start := time.Now()
		for name, call := range map[string]func(ctx context.Context) error{
			"publish a good value": func(ctx context.Context) error {
				_, err := c.Publish(ctx, change(set("greeting", "x")))
				return err
			},
			"publish a bad value": func(ctx context.Context) error {
				_, err := c.Publish(ctx, change(set("search.limit", "many")))
				return err
			},
			"try a good value": func(ctx context.Context) error {
				req := change(set("greeting", "x"))
				req.DryRun = true
				_, err := c.Publish(ctx, req)
				return err
			},
			"roll back": func(ctx context.Context) error {
				_, err := c.Rollback(ctx, &configv1.RollbackRequest{To: 1, Author: "a", Reason: "r"})
				return err
			},
			"declare": func(ctx context.Context) error {
				_, err := c.Declare(ctx, &configv1.DeclareRequest{App: "other"})
				return err
			},
			"history": func(ctx context.Context) error {
				_, err := c.History(ctx, &configv1.HistoryRequest{})
				return err
			},
			"diff": func(ctx context.Context) error {
				_, err := c.Diff(ctx, &configv1.DiffRequest{From: 1})
				return err
			},
		} {
			err := call(t.Context())
			if kind, reason := errs.KindOf(err), errs.Reason(err); kind != errs.Unavailable || reason != "STORE_UNAVAILABLE" {
				t.Errorf("%s: error %v of kind %v with reason %q", name, err, kind, reason)
				continue
			}
			if text := err.Error(); !strings.Contains(text, "store (etcd)") || strings.Contains(text, "tcp") {
				t.Errorf("%s: text is %q, want it to name the store and not its connection", name, text)
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the refusals took %v", took)
		}
		if err := servers[0].Problem(); err == nil || !strings.Contains(err.Error(), brokenPipe) {
			t.Errorf("operators see the problem %v, want the cause", err)
		}
	})
}

// A replica that has not read its store refuses everything, and says that another one may answer.
func TestRefusalsBeforeTheStoreWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kvmem.New()
		store.Fail(errors.New(brokenPipe))
		s := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}})
		c := s.Client(t)
		_, getErr := c.Get(t.Context(), &configv1.GetRequest{})
		_, explainErr := c.Explain(t.Context(), &configv1.ExplainRequest{Name: "a"})
		_, listErr := c.List(t.Context(), &configv1.ListRequest{})
		_, statusErr := c.Status(t.Context(), &configv1.StatusRequest{})
		_, publishErr := c.Publish(t.Context(), change(set("greeting", "x")))
		stream, err := c.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&configv1.WatchRequest{Identity: id("1")}); err != nil {
			t.Fatal(err)
		}
		_, watchErr := stream.Recv()
		for name, err := range map[string]error{
			"Get": getErr, "Explain": explainErr, "List": listErr, "Status": statusErr, "Publish": publishErr,
			"Watch": watchErr, "Loaded": s.Loaded(), "Problem": s.Problem(),
		} {
			if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "has not read the store yet") {
				t.Errorf("%s: error %v", name, err)
			}
		}
	})
}

// A writer that stops waiting while another publish is running knows that nothing was written.
func TestCanceledPublishWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Store: kvmem.New()}
		c := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
		declare(t, c)
		store.delay = 3 * time.Second
		first := make(chan error)
		go func() {
			_, err := c.Publish(t.Context(), change(set("greeting", "first")))
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Publish(ctx, change(set("greeting", "second"))); errs.KindOf(err) != errs.Timeout {
			t.Errorf("the second publish: error %v, want kind timeout", err)
		}
		if err := <-first; err != nil {
			t.Errorf("the first publish: %v", err)
		}
		time.Sleep(time.Minute)
		hist, err := c.History(t.Context(), &configv1.HistoryRequest{})
		if err != nil || len(hist.GetRevisions()) != 1 {
			t.Errorf("the history has %v, %v, want the first publish only", hist.GetRevisions(), err)
		}
	})
}

// slow is a store whose writes take some time.
type slow struct {
	*kvmem.Store
	delay time.Duration
}

func (s *slow) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	time.Sleep(s.delay) // of fake time
	return s.Store.Txn(ctx, txn)
}

// A publish takes at most five seconds, also if its caller would wait longer.
func TestPublishTakesAtMostFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Store: kvmem.New()}
		c := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: store}}).Client(t)
		declare(t, c)
		store.delay = 8 * time.Second
		go func() { _, _ = c.Publish(t.Context(), change(set("greeting", "first"))) }() // the second one is looked at
		synctest.Wait()
		start := time.Now()
		_, err := c.Publish(t.Context(), change(set("greeting", "second")))
		wantKind(t, err, errs.Unavailable)
		if !strings.Contains(err.Error(), "within 5s; nothing was written") {
			t.Errorf("text is %q", err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("it took %v, want 5s", took)
		}
		time.Sleep(time.Minute)
	})
}
