package console

import (
	"context"
	"encoding/json"
	"errors"

	"bijou.dev/platform/errs"
)

// followRoutes asks every gateway for its table: the tables may differ while a change is being distributed.
func (c *Console) followRoutes(ctx context.Context) {
	c.every(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		tables, err := c.askGateways(ctx)
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.report(partEdge, err)
		if err != nil {
			return
		}
		c.seen.mu.Lock()
		c.seen.tables = tables
		c.seen.mu.Unlock()
		c.hub.publish(topicRoutes, tables)
	})
}

// askGateways returns the tables of the gateways that answer, by instance, and an error if none does.
func (c *Console) askGateways(ctx context.Context) (map[string]json.RawMessage, error) {
	tables := map[string]json.RawMessage{}
	var problem error = errs.Errorf(errs.Unavailable, "no gateway is registered")
	list, _ := c.known()
	for _, in := range list.GetInstances() {
		if in.Service != "gateway" || in.Endpoints["admin"] == "" {
			continue
		}
		table, err := c.getAdmin(ctx, in.Endpoints["admin"], "/routes")
		if err == nil && !json.Valid(table) {
			err = errs.Errorf(errs.Unavailable, "%s answered /routes with text that is not JSON", in.Id)
		}
		if err != nil {
			problem = err
			continue
		}
		tables[in.Id] = table
	}
	if len(tables) > 0 {
		return tables, nil
	}
	return nil, problem
}
