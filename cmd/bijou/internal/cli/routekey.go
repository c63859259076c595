package cli

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
)

type routeKeyCmd struct {
	Name string `arg:"" help:"What to call who gets the key."`
}

// Help is what `bijou route key --help` prints before the flags.
func (routeKeyCmd) Help() string {
	return `The key is shown once, and kept nowhere. Put the entry, which has only its hash, into the list of the setting
gateway.keys by "bijou config set". This command changes nothing.`
}

// apiKey is an entry of the setting gateway.keys: see services/gateway/internal/auth/apikey.
type apiKey struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
}

// Run is `bijou route key`.
func (c *routeKeyCmd) Run(e *env) error {
	if err := names.ID.Check(c.Name); err != nil {
		return errs.Errorf(errs.Invalid, "making a key: the name %v", err)
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	key := hex.EncodeToString(raw[:])
	sum := sha256.Sum256([]byte(key))
	entry := apiKey{c.Name, hex.EncodeToString(sum[:])}
	if e.program.JSON {
		return e.printJSON(struct {
			Key   string `json:"key"`
			Entry apiKey `json:"entry"`
		}{key, entry})
	}
	return e.printf("key:   %s\nentry: {\"name\": %q, \"sha256\": %q}\n", key, entry.Name, entry.SHA256)
}
