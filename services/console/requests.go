package console

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"

	"bijou.dev/platform/errs"
)

// maxRequests is how many requests one action may send through the gateways.
const maxRequests = 200

// maxTexts is how many different texts an answer has.
const maxTexts = 20

// requestsRequest sends GET requests through the gateways and counts the answers. It shows how a route splits them.
type requestsRequest struct {
	Path   string `json:"path"`
	Count  int    `json:"count"`
	Author string `json:"author"`
	Reason string `json:"reason"`
}

func (q *requestsRequest) action() action {
	return action{"send requests", fmt.Sprintf("%d x GET %s", q.Count, q.Path), q.Author, q.Reason}
}

func (q *requestsRequest) validate() error {
	var bad errs.Violations
	if !strings.HasPrefix(q.Path, "/") || strings.HasPrefix(q.Path, "//") {
		bad.Add("path", "must begin with one /")
	}
	if q.Count < 1 || q.Count > maxRequests {
		bad.Addf("count", "must be 1 to %d", maxRequests)
	}
	return bad.Err("sending requests")
}

type requestsAnswer struct {
	// Statuses is HTTP status, or "no answer" -> number of answers.
	Statuses map[string]int `json:"statuses"`
	// Texts is text of a short answer -> number of answers.
	Texts map[string]int `json:"texts"`
}

func (c *Console) requests(ctx context.Context, q *requestsRequest) (requestsAnswer, error) {
	answer := requestsAnswer{map[string]int{}, map[string]int{}}
	if err := q.validate(); err != nil {
		return answer, err
	}
	var gateways []string
	list, _ := c.currentInstances()
	for _, in := range list.GetInstances() {
		if addr := in.Endpoints["http"]; in.Service == "gateway" && addr != "" {
			gateways = append(gateways, addr)
		}
	}
	if len(gateways) == 0 {
		return answer, errs.Errorf(errs.Unavailable, "sending requests: no gateway is registered")
	}
	for n := 0; n < q.Count && ctx.Err() == nil; n++ {
		status, text := c.request(ctx, gateways[rand.N(len(gateways))], q.Path)
		answer.Statuses[status]++
		if text != "" && (len(answer.Texts) < maxTexts || answer.Texts[text] > 0) {
			answer.Texts[text]++
		}
	}
	return answer, nil
}

// request sends one request through a gateway.
func (c *Console) request(ctx context.Context, gateway, path string) (status, text string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gateway+path, nil)
	if err != nil {
		return "no answer", ""
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "no answer", ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && len(body) < 200 && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		text = strings.TrimSpace(string(body))
	}
	return strconv.Itoa(resp.StatusCode), text
}
