package console

import (
	"context"
	"encoding/json"
	"errors"

	configv1 "bijou.dev/platform/api/config/v1"
)

// settingsState is the topic settings: the revision of each instance, and the newest revision.
type settingsState struct {
	Status json.RawMessage `json:"status"`
	Newest json.RawMessage `json:"newest,omitempty"`
}

func (c *Console) followSettings(ctx context.Context) {
	var newest *configv1.Revision
	c.poll(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
		defer cancel()
		status, err := c.config.Status(ctx, &configv1.StatusRequest{})
		if err == nil && status.Revision > 0 && newest.GetRevision() != status.Revision {
			newest, err = c.newestRevision(ctx)
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.setPart(partSettings, err)
		if err != nil {
			return
		}
		status.RegistryProblem = messageOf(partNames[partRegistry], status.RegistryProblem)
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

// publishSettingsStore publishes whether settings can be written: the check "store" of the config instances says so.
// One instance that can write is enough. The state is unknown while no instance reports the check.
func (c *Console) publishSettingsStore() {
	var problem string
	reported, writable := false, false
	c.answers.mu.Lock()
	for key, p := range c.answers.probes {
		if key.service != "config" || !p.ok {
			continue
		}
		for _, k := range p.checks {
			if k.Name == "store" {
				reported, writable = true, writable || k.OK
				problem = max(problem, k.Reason) // max: of several reasons always the same one
			}
		}
	}
	c.answers.mu.Unlock()
	switch {
	case !reported:
		c.setUnknown(partSettingsStore, "no instance of the configuration service answers")
	case writable:
		c.setPart(partSettingsStore, nil)
	default:
		c.setPart(partSettingsStore, storeError(problem))
	}
}
