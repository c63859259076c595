package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"
)

// forward asks by HTTP.
type forward struct {
	url    string
	client *http.Client
}

func newForward(url string, opts Options) *forward {
	tr := &http.Transport{
		DialContext: opts.DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		MaxResponseHeaderBytes: maxHeader,
	}
	if opts.TLS != nil {
		tr.TLSClientConfig = opts.TLS.Clone()
	}
	// Redirects are for the client of the edge.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &forward{url: url, client: &http.Client{Transport: tr, CheckRedirect: stay}}
}

func (f *forward) close() { f.client.CloseIdleConnections() }

// ask sends a GET with the header of the request. A status of 2xx lets the request pass, 3xx and 4xx are the response
// for the client.
func (f *forward) ask(ctx context.Context, q *Question) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the hook: %w", err)
	}
	req.Header["User-Agent"] = []string{""} // none, if the client has sent none
	for _, field := range q.Header {
		if passes(field.Name) {
			if field.Name == "User-Agent" {
				req.Header.Set(field.Name, field.Value)
			} else {
				req.Header[field.Name] = append(req.Header[field.Name], field.Value)
			}
		}
	}
	for name, value := range map[string]string{
		"X-Forwarded-Method": q.Method, "X-Forwarded-Proto": q.Scheme, "X-Forwarded-Host": q.Host,
		"X-Forwarded-Uri": q.Path, "X-Forwarded-For": strings.Join(q.Chain, ", "), "X-Request-Id": q.ID,
	} {
		req.Header.Set(name, value)
	}
	res, err := f.client.Do(req)
	if err != nil {
		return nil, errors.New("the hook did not answer") // the error would have its URL
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, errors.New("the hook broke off")
	case len(body) > maxBody:
		return nil, fmt.Errorf("the answer of the hook has more than %d bytes", maxBody)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		a := &Answer{Allowed: true, Cookies: res.Header["Set-Cookie"]}
		a.Header.FromHTTP(res.Header)
		return a, nil
	}
	var h message.Header
	h.FromHTTP(res.Header)
	drop := fields.Named(h)
	h = slices.DeleteFunc(h, func(f message.Field) bool { return !forClient(f.Name) || slices.Contains(drop, f.Name) })
	return denied(res.StatusCode, h, body)
}
