package console

import (
	"context"
	"encoding/json"
	"errors"

	configv1 "bijou.dev/platform/api/config/v1"
)

// settingsState says which instance runs which revision, and what the newest revision is.
type settingsState struct {
	Status json.RawMessage `json:"status"`
	Newest json.RawMessage `json:"newest,omitempty"`
}

func (c *Console) followSettings(ctx context.Context) {
	var newest *configv1.Revision
	c.every(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*askLimit)
		defer cancel()
		status, err := c.config.Status(ctx, &configv1.StatusRequest{})
		if err == nil && status.Revision > 0 && newest.GetRevision() != status.Revision {
			newest, err = c.newestRevision(ctx)
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.report(partSettings, err)
		if err != nil {
			return
		}
		status.RegistryProblem = sentenceOf(partNames[partRegistry], status.RegistryProblem)
		state := settingsState{Status: protoJSON(status)}
		if newest != nil {
			state.Newest = protoJSON(newest)
		}
		c.hub.publish(topicSettings, state)
	})
}

// newestRevision returns nil if there is none.
func (c *Console) newestRevision(ctx context.Context) (*configv1.Revision, error) {
	h, err := c.config.History(ctx, &configv1.HistoryRequest{Limit: 1})
	if err != nil || len(h.Revisions) == 0 {
		return nil, err
	}
	return h.Revisions[0], nil
}

// reportSettingsStore publishes whether settings can be written, as the config instances report it in their check
// "store". One instance that can write is enough. It reports nothing while no config instance answers.
func (c *Console) reportSettingsStore() {
	var problem string
	found, writable := false, false
	c.seen.mu.Lock()
	for key, p := range c.seen.probes {
		if key.service != "config" || !p.ok {
			continue
		}
		for _, k := range p.checks {
			if k.Name == "store" {
				found, writable = true, writable || k.OK
				problem = max(problem, k.Reason) // the same of several each time
			}
		}
	}
	c.seen.mu.Unlock()
	switch {
	case !found:
	case writable:
		c.report(partSettingsStore, nil)
	default:
		c.report(partSettingsStore, storeError(problem))
	}
}
