package console

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/text"

	"google.golang.org/grpc"
)

// actionTimeout bounds one query or action of a page.
const actionTimeout = 15 * time.Second

// registerActions adds the queries and actions of the pages. Requests and responses are the messages of the owning
// service as JSON; the path is the name of its method.
func (c *Console) registerActions(mux *httpapi.Mux) {
	settings, circuits, registry := partNames[partSettings], partNames[partCircuits], partNames[partRegistry]
	for path, handler := range map[string]http.Handler{
		"config/List":           rpc(c, settings, c.config.List),
		"config/Get":            rpc(c, settings, c.config.Get),
		"config/Explain":        rpc(c, settings, c.config.Explain),
		"config/History":        rpc(c, settings, c.config.History),
		"config/Diff":           rpc(c, settings, c.config.Diff),
		"config/Publish":        rpc(c, settings, c.config.Publish),
		"config/Rollback":       rpc(c, settings, c.config.Rollback),
		"circuits/Force":        rpc(c, circuits, c.circuits.Force),
		"discovery/SetOverride": rpc(c, registry, c.registry.SetOverride),
		"kill":                  handle(c, c.kill),
		"requests":              handle(c, c.requests),
	} {
		mux.Handle("/api/"+path, handler)
	}
}

// rpc returns a handler that passes requests to a method of a service. Error texts have the name of the service.
func rpc[Q, A any](
	c *Console, service string, method func(context.Context, *Q, ...grpc.CallOption) (*A, error),
) http.Handler {
	return handle(c, func(ctx context.Context, q *Q) (*A, error) {
		answer, err := method(ctx, q)
		return answer, c.userError(service, err)
	})
}

// handle returns a handler that checks whether a request is allowed, calls do, and logs an audit line.
func handle[Q, A any](c *Console, do func(context.Context, *Q) (A, error)) http.Handler {
	return httpapi.Post(func(ctx context.Context, q *Q) (answer A, err error) {
		a := actionOf(q)
		if err := c.allow(a); err != nil {
			return answer, err
		}
		ctx, cancel := context.WithTimeout(ctx, actionTimeout)
		defer cancel()
		answer, err = do(ctx, q)
		c.audit(a, err)
		return answer, err
	})
}

// action is what a request changes, who sent it and why. The zero action changes nothing.
type action struct{ what, target, author, reason string }

// actionOf returns the action of a request.
func actionOf(q any) action {
	switch q := q.(type) {
	case *configv1.PublishRequest:
		if q.DryRun {
			return action{}
		}
		var names []string
		for _, ch := range q.Changes {
			names = append(names, ch.GetName())
		}
		return action{"publish settings", strings.Join(names, " "), q.Author, q.Reason}
	case *configv1.RollbackRequest:
		if q.DryRun {
			return action{}
		}
		return action{"roll settings back", strconv.FormatInt(q.To, 10), q.Author, q.Reason}
	case *circuitsv1.ForceRequest:
		return action{"force a circuit", q.Service + " " + q.Name + " " + q.State.String(), q.Author, q.Reason}
	case *discoveryv1.SetOverrideRequest:
		return action{"set a status", q.Service + "/" + q.Id + " " + q.Status.String(), q.Author, q.Reason}
	case interface{ action() action }:
		return q.action()
	default:
		return action{}
	}
}

// allow refuses every action in read-only mode, and an action whose author or reason is empty, too long or not
// printable.
func (c *Console) allow(a action) error {
	if a.what == "" {
		return nil
	}
	if c.opts.ReadOnly {
		return errs.Errorf(errs.Denied, "this console is read-only: it runs with -read-only")
	}
	var bad errs.Violations
	if err := text.CheckNote(a.author, text.MaxAuthor); err != nil {
		bad.Add("author", err.Error())
	}
	if err := text.CheckNote(a.reason, text.MaxReason); err != nil {
		bad.Add("reason", err.Error())
	}
	return bad.Err("asking to %s", a.what)
}

// audit logs an action and its result.
func (c *Console) audit(a action, err error) {
	if a.what == "" {
		return
	}
	outcome := "done"
	if err != nil {
		outcome = "refused: " + err.Error()
	}
	c.log.Info("audit", slog.String("author", a.author), slog.String("action", a.what), slog.String("target", a.target),
		slog.String("reason", a.reason), slog.String("outcome", outcome))
}
