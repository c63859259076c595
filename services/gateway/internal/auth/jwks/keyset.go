package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// KeySet is the public keys of a provider. It does not change.
type KeySet struct {
	keys []jose.JSONWebKey
	sum  [32]byte // of the bytes that it was read from
}

// Bounds of a set.
const (
	maxKeys    = 100
	minRSABits = 2048
	// maxTried is how many keys are tried for a token that does not say which key it was signed with.
	maxTried = 10
)

// Parse reads a JSON Web Key Set (RFC 7517, 5). Keys that cannot check a signature are left out, as that RFC says: keys
// of unknown kinds or for encryption, secrets, private keys, and keys that are too short.
func Parse(text []byte) (*KeySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, errors.New("the keys are not a JSON Web Key Set")
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("there are %d keys, more than %d", len(raw.Keys), maxKeys)
	}
	set := &KeySet{}
	for _, text := range raw.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(text, &key) == nil && isUsable(&key) && mayVerify(text) {
			set.keys = append(set.keys, key)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("no key can check signatures")
	}
	return set, nil
}

// mayVerify reads key_ops, which go-jose does not.
func mayVerify(text []byte) bool {
	var raw map[string]any
	if json.Unmarshal(text, &raw) != nil {
		return false
	}
	operations, ok := raw["key_ops"]
	if !ok {
		return true
	}
	list, _ := operations.([]any)
	return slices.Contains(list, any("verify"))
}

func isUsable(key *jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits && key.Valid()
	case *ecdsa.PublicKey:
		return key.Valid()
	case ed25519.PublicKey:
		return key.Valid()
	}
	return false
}

// Len is the number of keys.
func (s *KeySet) Len() int { return len(s.keys) }

// For returns the keys that may have signed a token, by the id and the algorithm of its header. Empty id: the header
// has none. A key is for the algorithm that it says, or for those of its kind.
func (s *KeySet) For(id, algorithm string) iter.Seq[crypto.PublicKey] {
	return func(yield func(crypto.PublicKey) bool) {
		tried := 0
		for i := range s.keys {
			key := &s.keys[i]
			if id != "" && key.KeyID != id || key.Algorithm != "" && key.Algorithm != algorithm ||
				!fits(key.Key, algorithm) {
				continue
			}
			if tried++; tried > maxTried || !yield(key.Key) {
				return
			}
		}
	}
}

// fits reports whether an algorithm uses keys of this kind.
func fits(key crypto.PublicKey, algorithm string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		switch algorithm {
		case "ES256":
			return k.Curve == elliptic.P256()
		case "ES384":
			return k.Curve == elliptic.P384()
		case "ES512":
			return k.Curve == elliptic.P521()
		}
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
