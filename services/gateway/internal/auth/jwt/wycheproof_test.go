package jwt_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/jwt"
)

// wycheproof is a version of the test vectors of Wycheproof that the module proxy has. It is no require of go.mod: it
// has no package that could be imported, and later versions need a later version of Go. The go command checks it by the
// checksum database.
const wycheproof = "github.com/C2SP/wycheproof@v0.0.0-20250901140545-b51abcfb8daf"

// wycheproofDir returns the folder of the vectors. Without the network the test is skipped, but not in CI.
func wycheproofDir(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", wycheproof)
	cmd.Dir = t.TempDir() // outside of the workspace
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(out, &module) != nil || module.Dir == "" {
		if os.Getenv("CI") != "" {
			t.Fatalf("downloading %s: %v\n%s", wycheproof, err, out)
		}
		t.Skipf("downloading %s: %v\n%s", wycheproof, err, out)
	}
	return filepath.Join(module.Dir, "testvectors_v1")
}

// vectors is a file of Wycheproof with signatures.
type vectors struct {
	Groups []struct {
		Comment         string          `json:"comment"`
		Public, Private json.RawMessage // a key or a set of keys; Public is missing for secrets
		Tests           []struct {
			ID      int    `json:"tcId"`
			Comment string `json:"comment"`
			JWS     string `json:"jws"`
			Result  string `json:"result"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// Signatures that Wycheproof says are valid are taken, and no others. Those by a secret are refused in any case.
func TestWycheproofSignatures(t *testing.T) {
	dir := wycheproofDir(t)
	for file, want := range map[string]struct{ valid, invalid int }{
		"json_web_signature_test.json": {30, 350}, "json_web_key_test.json": {2, 20},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var all vectors
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
		valid, invalid := 0, 0
		for _, g := range all.Groups {
			key, public := g.Public, g.Public != nil
			if !public {
				key = g.Private
			}
			keys := wycheproofKeys(key)
			for _, c := range g.Tests {
				err := jwks.ErrUnavailable
				if keys != nil {
					_, err = jwt.New(everyAlg, fixed{keys}).Signed(t.Context(), c.JWS)
				}
				takes := c.Result == "valid" && public
				if known, ok := exceptions[fmt.Sprint(g.Comment, " ", c.Comment)]; ok {
					takes = known
				}
				if (err == nil) != takes {
					t.Errorf("%s, %d, %s, %s: error %v, but it is %s", file, c.ID, g.Comment, c.Comment, err, c.Result)
				}
				if err == nil {
					valid++
				} else {
					invalid++
				}
			}
		}
		if t.Logf("%s: %d taken, %d refused", file, valid, invalid); valid < want.valid || invalid < want.invalid {
			t.Errorf("%s: want at least %d and %d", file, want.valid, want.invalid)
		}
	}
}

// exceptions are tests where we differ: comments of the group and the test -> whether we take the signature.
var exceptions = map[string]bool{
	// The key says that it is for another algorithm (PS256, and ES521, which does not exist). It is not used for this one.
	"rfc7520 Figure20": false, "rfc7520 Figure27": false, "rfc7520WithKeyOps Figure20": false,
	"rfc7520WithKeyOps Figure27": false,
	// A key that a faulty chip has made (ROCA). Go does not look for this, and a provider would have to publish it.
	"jws_rsa_roca_key rejectsKeyWithRocaVulnerability": true,
}

// wycheproofKeys reads a key or a set of keys as the answer of a provider. Nil: none can be used.
func wycheproofKeys(key json.RawMessage) *jwks.KeySet {
	var one struct{ Keys json.RawMessage }
	if json.Unmarshal(key, &one) == nil && one.Keys == nil {
		key = append(append([]byte(`{"keys":[`), key...), `]}`...)
	}
	keys, err := jwks.Parse(key)
	if err != nil {
		return nil
	}
	return keys
}
