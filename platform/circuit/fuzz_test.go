package circuit_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"

	"google.golang.org/protobuf/encoding/protojson"
)

// FuzzEvents checks that no snapshot that a process may send breaks hystrix.stream: each event is one line of JSON.
func FuzzEvents(f *testing.F) {
	f.Add(`{"name":"getMovie","group":"catalog","state":"STATE_OPEN","rolling":{"SUCCESS":"9"},"reportingHosts":1,
		"properties":{"timeout":"1s","minCalls":"20","forceOpen":"true"},
		"load":{"calls":"9","latency":{"first":8,"counts":["9"],"sumNs":6e5,"minNs":"66000","maxNs":"67000"}}}`)
	f.Add(`{"name":"a\nb","group":"\u2028","reportingHosts":3,"load":{"latency":{"first":175,"counts":["1","1"]}}}`)
	f.Add(`{"name":"","load":{"latency":{"counts":["1"],"sumNs":"Infinity"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var s circuitsv1.Snapshot
		if protojson.Unmarshal([]byte(text), &s) != nil {
			return
		}
		var out bytes.Buffer
		if err := circuit.WriteEvents(&out, []*circuitsv1.Snapshot{&s}, time.Unix(1, 0)); err != nil {
			return
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if data, ok := strings.CutPrefix(line, "data: "); line != "" && (!ok || !json.Valid([]byte(data))) {
				t.Fatalf("%q is no event", line)
			}
		}
	})
}
