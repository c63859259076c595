package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// Requests that have ended are not in progress. If they were subtracted twice, the cost of the instance that has got
// most requests would be negative, and it would get all others, too.
func TestInstancesHaveNoRequestsAfterTheyHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}]}]`)
		for i := range 3 {
			w.origin("web", fmt.Sprint("web-", i), "", responds("ok"))
		}
		c := w.client(false)
		for range 30 {
			w.do(c, http.MethodGet, "http://x/", nil)
		}
		synctest.Wait()
		rec := httptest.NewRecorder()
		w.edge.RoutesHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/routes", nil))
		if text := rec.Body.String(); strings.Count(text, `"pending": 0`) != 3 {
			t.Errorf("after 30 requests that have ended: %s, want three instances with no pending requests", text)
		}
	})
}
