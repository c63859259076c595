package console

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"bijou.dev/platform/errs"
)

// killRequest kills one process, or all processes of a service, through the admin port of each.
type killRequest struct {
	Service string `json:"service"`
	// ID is the instance. Empty: every instance of the service.
	ID string `json:"id"`
	// For is how long the process stays down, as a duration: "20s". Empty: it may start again at once.
	For    string `json:"for"`
	Author string `json:"author"`
	Reason string `json:"reason"`
}

func (q *killRequest) action() action {
	return action{"kill", q.Service + "/" + q.ID, q.Author, q.Reason}
}

type killAnswer struct {
	// Killed has the ids of the instances that were killed.
	Killed []string `json:"killed"`
}

func (c *Console) kill(ctx context.Context, q *killRequest) (killAnswer, error) {
	var answer killAnswer
	body, err := json.Marshal(map[string]string{"for": q.For, "author": q.Author, "reason": q.Reason})
	if err != nil {
		return answer, err
	}
	list, _ := c.currentInstances()
	for _, in := range list.GetInstances() {
		if in.Service != q.Service || q.ID != "" && in.Id != q.ID || in.Endpoints["admin"] == "" {
			continue
		}
		if err := c.killInstance(ctx, in.Endpoints["admin"], body); err != nil {
			return answer, c.userError(in.Id, errs.Errorf(errs.KindOf(err), "killing %s: %w", in.Id, err))
		}
		answer.Killed = append(answer.Killed, in.Id)
	}
	if len(answer.Killed) == 0 {
		return answer, errs.Errorf(errs.NotFound,
			"killing %s/%s: there is no such instance with an admin page", q.Service, q.ID)
	}
	return answer, nil
}

func (c *Console) killInstance(ctx context.Context, addr string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/kill", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
		return errs.Errorf(errs.Precondition, "it does not allow it; start it with -allow-kill")
	}
	return errs.FromResponse(resp)
}
