// Package loadtest has figures for the tests of programs that show them.
package loadtest

import (
	_ "embed"
	"testing"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

//go:embed links.json
var links []byte

// Links returns links as the circuits service serves them: with calls, without calls, with circuits that are not
// closed, and one that is still being measured. The console and `bijou map` must show the same figures for them.
func Links(t *testing.T) *circuitsv1.LinksResponse {
	t.Helper()
	answer := &circuitsv1.LinksResponse{}
	if err := protojson.Unmarshal(links, answer); err != nil {
		t.Fatalf("reading links.json: %v", err)
	}
	return answer
}
