package suitetest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tlsDiffers is where the edge differs from Mozilla's intermediate configuration, with the reason.
var tlsDiffers = map[string]string{}

// TestTLS scans the edge with sslyze. What it finds must be what Mozilla recommends for servers of the public, and none
// of the attacks that it knows may work.
func TestTLS(t *testing.T) {
	t.Run("ECDSA", func(t *testing.T) { scanTLS(t, newKey(t)) })
	t.Run("RSA", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		scanTLS(t, key)
	})
}

// scanTLS scans an edge whose certificate has this key.
func scanTLS(t *testing.T, key crypto.Signer) {
	t.Helper()
	e := newEdge(t, `[{"name":"hi","respond":{"body":"hi"}}]`, newCertificate(t, key))
	_, port, err := net.SplitHostPort(e.secure)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	out, err := run(t, python(t, "sslyze", "--mozilla_config=intermediate", "--certinfo_ca_file="+e.cert,
		"--early_data", "--json_out="+report, "localhost:"+port))
	_, compliance, found := strings.Cut(out, "COMPLIANCE AGAINST TLS CONFIGURATION")
	if !found {
		t.Fatalf("sslyze compared nothing (%v) and wrote:\n%s", err, out)
	}
	differs := regexp.MustCompile(`(?m)^ +\* (.*)$`).FindAllStringSubmatch(compliance, -1)
	var seen []string
	for _, d := range differs {
		if seen = append(seen, d[1]); tlsDiffers[d[1]] == "" {
			t.Errorf("the edge differs from Mozilla's configuration: %s", d[1])
		}
	}
	for d := range tlsDiffers {
		if !slices.Contains(seen, d) {
			t.Errorf("the edge does not differ any more; take it out of tlsDiffers: %s", d)
		}
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	checkAttacks(t, text)
}

// checkAttacks reads the report of sslyze.
func checkAttacks(t *testing.T, text []byte) {
	t.Helper()
	type attempt[R any] struct {
		Status string `json:"status"`
		Result R      `json:"result"`
	}
	var report struct {
		Results []struct {
			Scan struct {
				Heartbleed attempt[struct {
					Yes bool `json:"is_vulnerable_to_heartbleed"`
				}] `json:"heartbleed"`
				CCS attempt[struct {
					Yes bool `json:"is_vulnerable_to_ccs_injection"`
				}] `json:"openssl_ccs_injection"`
				ROBOT attempt[struct {
					Result string `json:"robot_result"`
				}] `json:"robot"`
				Compression attempt[struct {
					Yes bool `json:"supports_compression"`
				}] `json:"tls_compression"`
				Renegotiation attempt[struct {
					DoS    bool `json:"is_vulnerable_to_client_renegotiation_dos"`
					Secure bool `json:"supports_secure_renegotiation"`
				}] `json:"session_renegotiation"`
				Fallback attempt[struct {
					Yes bool `json:"supports_fallback_scsv"`
				}] `json:"tls_fallback_scsv"`
				Early attempt[struct {
					Yes bool `json:"supports_early_data"`
				}] `json:"tls_1_3_early_data"`
				Secret attempt[struct {
					Yes bool `json:"supports_ems_extension"`
				}] `json:"tls_extended_master_secret"`
			} `json:"scan_result"`
		} `json:"server_scan_results"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != 1 {
		t.Fatalf("sslyze reports of %d servers, want one", len(report.Results))
	}
	scan := report.Results[0].Scan
	robot := strings.HasPrefix(scan.ROBOT.Result.Result, "NOT_VULNERABLE")
	for name, c := range map[string]struct {
		status string
		safe   bool
	}{
		"Heartbleed":                         {scan.Heartbleed.Status, !scan.Heartbleed.Result.Yes},
		"OpenSSL CCS injection":              {scan.CCS.Status, !scan.CCS.Result.Yes},
		"ROBOT":                              {scan.ROBOT.Status, robot},
		"CRIME (compression)":                {scan.Compression.Status, !scan.Compression.Result.Yes},
		"renegotiation by the client":        {scan.Renegotiation.Status, !scan.Renegotiation.Result.DoS},
		"secure renegotiation":               {scan.Renegotiation.Status, scan.Renegotiation.Result.Secure},
		"downgrade (TLS_FALLBACK_SCSV)":      {scan.Fallback.Status, scan.Fallback.Result.Yes},
		"replay of early data":               {scan.Early.Status, !scan.Early.Result.Yes},
		"triple handshake (extended secret)": {scan.Secret.Status, scan.Secret.Result.Yes},
	} {
		if c.status != "COMPLETED" || !c.safe {
			t.Errorf("%s: the check is %s, and safe is %t", name, c.status, c.safe)
		}
	}
}
