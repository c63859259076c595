package console

import (
	"context"
	"encoding/json"
	"errors"

	"bijou.dev/platform/errs"
)

// followRoutes asks every gateway for its routes: they may differ while a change is being distributed.
func (c *Console) followRoutes(ctx context.Context) {
	c.poll(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		tables, err := c.fetchRoutes(ctx)
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.setPart(partEdge, err)
		if err != nil {
			return
		}
		c.answers.mu.Lock()
		c.answers.tables = tables
		c.answers.mu.Unlock()
		c.hub.publish(topicRoutes, tables)
	})
}

// fetchRoutes returns the routes of the gateways that answer, by instance, or an error if no gateway answers.
func (c *Console) fetchRoutes(ctx context.Context) (map[string]json.RawMessage, error) {
	tables := map[string]json.RawMessage{}
	var problem error = errs.Errorf(errs.Unavailable, "no gateway is registered")
	list, _ := c.currentInstances()
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
