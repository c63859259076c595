package circuit_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"

	"github.com/google/go-cmp/cmp"
)

var defaults = map[string]string{
	"timeout": "1s", "maxConcurrent": "100", "breakerEnabled": "true", "minCalls": "20", "errorPercent": "50",
	"openFor": "5s", "slowCall": "0s", "forceOpen": "false", "forceClosed": "false",
	"fallbackEnabled": "true", "maxFallbacks": "100",
}

func TestSettingsHaveTheirDefaults(t *testing.T) {
	s := circuit.New(circuit.Options{})
	calls(t, s, 1, succeed)
	if diff := cmp.Diff(defaults, snapshot(t, s).Properties); diff != "" {
		t.Errorf("settings of a circuit (-want +got):\n%s", diff)
	}
}

// Every setting is live for a circuit, its group and all circuits, in this order, and is shown under Hystrix's names.
func TestSettingsAreReadByCircuitThenGroupThenDefault(t *testing.T) {
	hystrix := map[string][]string{
		"timeout":        {"executionTimeoutInMilliseconds", "executionIsolationThreadTimeoutInMilliseconds"},
		"maxConcurrent":  {"executionIsolationSemaphoreMaxConcurrentRequests"},
		"breakerEnabled": {"circuitBreakerEnabled"},
		"minCalls":       {"circuitBreakerRequestVolumeThreshold"},
		"errorPercent":   {"circuitBreakerErrorThresholdPercentage"},
		"openFor":        {"circuitBreakerSleepWindowInMilliseconds"},
		"forceOpen":      {"circuitBreakerForceOpen"},
		"forceClosed":    {"circuitBreakerForceClosed"},
		"maxFallbacks":   {"fallbackIsolationSemaphoreMaxConcurrentRequests"},
	}
	for name, def := range defaults {
		t.Run(name, func(t *testing.T) {
			cfg := config.Static(nil)
			s := circuit.New(circuit.Options{Config: cfg})
			calls(t, s, 1, succeed)
			values := []struct {
				text    string
				hystrix any
			}{{"7", 7.0}, {"8", 8.0}, {"9", 9.0}}
			switch {
			case strings.HasSuffix(def, "s"):
				values[0].text, values[1].text, values[2].text = "7ms", "8ms", "9ms"
			case def == "true" || def == "false":
				values[0].text, values[1].text, values[2].text = "true", "false", "true"
				values[0].hystrix, values[1].hystrix, values[2].hystrix = true, false, true
			}
			for i, key := range []string{"default", "catalog", "catalog.GetMovie"} {
				set(t, cfg, key+"."+name, values[i].text)
				snap := snapshot(t, s)
				if got := snap.Properties[name]; got != values[i].text {
					t.Errorf("with %s set, the circuit uses %s, want %s",
						circuit.Setting(key, name), got, values[i].text)
				}
				var stream bytes.Buffer
				if err := circuit.WriteEvents(&stream, s.Snapshots(), time.Now()); err != nil {
					t.Fatal(err)
				}
				command := events(t, stream.String())[0]
				for _, property := range hystrix[name] {
					if got := command["propertyValue_"+property]; got != values[i].hystrix {
						t.Errorf("hystrix.stream has %s %v, want %v", property, got, values[i].hystrix)
					}
				}
			}
		})
	}
}

func TestSettingsAreDocumented(t *testing.T) {
	cfg := config.Static(nil)
	circuit.New(circuit.Options{Config: cfg})
	page, err := os.ReadFile("../../docs/api/circuits.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range cfg.Entries() {
		name := strings.TrimPrefix(entry.Name, "circuit.*.")
		if name == entry.Name { // not a family
			if text := fmt.Sprintf("`%s` (%s)", name, entry.Default); !strings.Contains(string(page), text) {
				t.Errorf("docs/api/circuits.md does not say %s", text)
			}
			continue
		}
		if row := fmt.Sprintf("| `%s` | %s |", entry.Name, entry.Default); !strings.Contains(string(page), row) {
			t.Errorf("docs/api/circuits.md has no row that begins with %s", row)
		}
		if line := fmt.Sprintf("//\t%-16s %s", name, entry.Default); !strings.Contains(string(doc), line) {
			t.Errorf("doc.go has no line that begins with %q", line)
		}
	}
}
