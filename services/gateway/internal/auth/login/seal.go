package login

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Keys encrypt and authenticate what browsers keep. All replicas of the edge must have the same.
type Keys struct {
	all []cipher.AEAD // the first one seals, each may open
}

// maxKeys bounds what is tried for each cookie.
const maxKeys = 8

// ParseKeys reads a file of keys: 32 random bytes each, in base64 or 64 hexadecimal digits, one a line. The first one
// seals; the others open what was sealed before. Empty lines and those that begin with # do not count.
func ParseKeys(text string) (*Keys, error) {
	k := &Keys{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := hex.DecodeString(line)
		if err != nil {
			line = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(line, "="))
			if key, err = base64.RawStdEncoding.DecodeString(line); err != nil {
				return nil, errors.New("a line is neither base64 nor hexadecimal") // without its text, which is a secret
			}
		}
		if len(key) != 32 {
			return nil, fmt.Errorf("a key has %d bytes, not 32; make one with: openssl rand -base64 32", len(key))
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("using a key: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("using a key: %w", err)
		}
		if k.all = append(k.all, aead); len(k.all) > maxKeys {
			return nil, fmt.Errorf("there are more than %d keys", maxKeys)
		}
	}
	if len(k.all) == 0 {
		return nil, errors.New("there is no key")
	}
	return k, nil
}

// Seal encrypts text for a purpose.
func (k *Keys) Seal(purpose string, text []byte) string {
	return base64.RawURLEncoding.EncodeToString(k.all[0].Seal(nil, nil, text, []byte(purpose)))
}

// Open returns the text that was sealed for a purpose. False: it was not, or it was changed.
func (k *Keys) Open(purpose, sealed string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || strings.ContainsAny(sealed, "\r\n") { // which the decoder ignores
		return nil, false
	}
	for _, aead := range k.all {
		if text, err := aead.Open(nil, nil, b, []byte(purpose)); err == nil {
			return text, true
		}
	}
	return nil, false
}
