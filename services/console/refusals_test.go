package console

import (
	"io/fs"
	"testing"
	"testing/fstest"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/httpapi/httpapitest"
)

func TestWrongRequestsAreRefusedOnEveryPath(t *testing.T) {
	site, err := openSite(fstest.MapFS{"dist": {Mode: fs.ModeDir}})
	if err != nil {
		t.Fatal(err)
	}
	// The refused requests do not reach a backend.
	h := (&Console{
		opts: Options{Hosts: []string{"example.com"}}, answers: newAnswers(), hub: newHub(1, func() {}), site: site,
		registry: discoveryv1.NewDiscoveryClient(nil), circuits: circuitsv1.NewCircuitsClient(nil),
		config: configv1.NewConfigClient(nil),
	}).Handler()
	for path, body := range map[string]string{
		"/api/config/List":           `{"app":"web"}`,
		"/api/config/Get":            `{"identity":{}}`,
		"/api/config/Explain":        `{"name":"web.x"}`,
		"/api/config/History":        `{"limit":1}`,
		"/api/config/Diff":           `{"from":"1"}`,
		"/api/config/Publish":        `{"author":"ann","reason":"r"}`,
		"/api/config/Rollback":       `{"author":"ann","reason":"r"}`,
		"/api/circuits/Force":        `{"author":"ann","reason":"r"}`,
		"/api/discovery/SetOverride": `{"author":"ann","reason":"r"}`,
		"/api/kill":                  `{"author":"ann","reason":"r"}`,
		"/api/requests":              `{"author":"ann","reason":"r"}`,
	} {
		httpapitest.Check(t, h, "POST", path, body)
	}
	for _, path := range []string{
		"/api/stream", "/api/state/fleet", "/api/traces/services", "/vizceral.json", "/map", "/app.js",
	} {
		httpapitest.Check(t, h, "GET", path, "")
	}
}
