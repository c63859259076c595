package jwt

import (
	"crypto/sha256"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/jwks"
)

// memory has the claims of tokens that were verified: a client sends the same token with each request, and a signature
// costs more than all else that the edge does for a request. Only tokens that are good are in it, so that strangers
// cannot fill it.
type memory struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]remembered // hash of the token -> claims
}

// remembered is a token that was verified.
type remembered struct {
	claims auth.Claims  // never changed
	until  time.Time    // when the token expires
	keys   *jwks.KeySet // by which it was verified; with newer ones it is verified again
}

// maxRemembered bounds a memory, to some megabytes.
const maxRemembered = 2048

func (m *memory) get(sum [sha256.Size]byte, keys *jwks.KeySet) auth.Claims {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.all[sum]
	switch {
	case !ok:
		return nil
	case r.keys == keys && time.Now().Before(r.until):
		return r.claims
	}
	delete(m.all, sum)
	return nil
}

func (m *memory) put(sum [sha256.Size]byte, r remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[[sha256.Size]byte]remembered{}
	}
	for old := range m.all { // any one of them
		if len(m.all) < maxRemembered {
			break
		}
		delete(m.all, old)
	}
	m.all[sum] = r
}
