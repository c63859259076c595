package httpapi_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"bijou.dev/platform/httpapi"
)

func Example() {
	type greeting struct {
		Name string `json:"name"`
	}
	h := httpapi.Post(func(_ context.Context, g *greeting) (greeting, error) {
		return greeting{"hello " + g.Name}, nil
	})
	r := httptest.NewRequest("POST", "/greet", strings.NewReader(`{"name":"ann"}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output:
	// 200 {
	//   "name": "hello ann"
	// }
}
