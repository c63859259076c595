package login

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/jwks"

	"golang.org/x/oauth2"
)

// refreshes are renewals of sessions, in progress or just finished. A browser sends many requests with the old cookie
// at once, and a provider may take a second use of one refresh token for a theft, and end the session.
type refreshes struct {
	mu   sync.Mutex
	all  map[[sha256.Size]byte]*refresh // hash of the refresh token -> its use
	down time.Time                      // until when the provider is not asked, because it did not answer
}

type refresh struct {
	done    chan struct{}
	session *session // nil: the provider has ended it
	err     error    // the provider did not answer
	until   time.Time
}

// Times and sizes of renewals.
const (
	refreshFor   = time.Minute // how long the result is used for requests with the old cookie
	downFor      = 30 * time.Second
	maxRefreshes = 10_000
)

// errDown says that the provider was not asked.
var errDown = errors.New("the identity provider does not answer")

// renew renews a session at the provider. Nil: it has ended the session. An error: it did not answer.
func (l *Login) renew(ctx context.Context, r *Request, s *session) (*session, error) {
	f, mine := l.refreshes.get(s.Token)
	switch {
	case f == nil:
		return nil, errDown
	case mine:
		f.session, f.err = l.refresh(context.WithoutCancel(ctx), r, s)
		l.refreshes.finish(f)
	}
	select {
	case <-f.done:
		return f.session, f.err
	case <-ctx.Done():
		return nil, ctx.Err() //nolint:wrapcheck // the client has left
	}
}

// get returns the use of a refresh token, and whether the caller must make it. Nil: the provider does not answer.
func (f *refreshes) get(token string) (use *refresh, mine bool) {
	key, now := sha256.Sum256([]byte(token)), time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.all[key]; u != nil && (u.until.IsZero() || now.Before(u.until)) {
		return u, false
	}
	if now.Before(f.down) {
		return nil, false
	}
	if f.all == nil {
		f.all = map[[sha256.Size]byte]*refresh{}
	}
	if len(f.all) >= maxRefreshes {
		for k, u := range f.all {
			if !u.until.IsZero() && !now.Before(u.until) {
				delete(f.all, k)
			}
		}
	}
	if len(f.all) >= maxRefreshes {
		return nil, false // the sessions are renewed later
	}
	use = &refresh{done: make(chan struct{})}
	f.all[key] = use
	return use, true
}

// finish says that a use has its result.
func (f *refreshes) finish(u *refresh) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u.until = time.Now().Add(refreshFor)
	if u.err != nil {
		f.down = time.Now().Add(downFor)
		u.until = f.down
	}
	close(u.done)
}

// refresh uses a refresh token (RFC 6749, 6).
func (l *Login) refresh(ctx context.Context, r *Request, s *session) (*session, error) {
	config, err := l.config(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.provider(ctx)
	defer cancel()
	token, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: s.Token}).Token()
	if err != nil {
		if isRefusal(err) {
			return nil, nil //nolint:nilnil // as renew says
		}
		l.logProvider("renewing a session", err)
		return nil, err //nolint:wrapcheck // nobody reads it
	}
	now, end := time.Now(), time.Unix(s.End, 0)
	if _, ok := token.Extra("id_token").(string); !ok { // it need not be there
		next := *s
		next.Token = token.RefreshToken // x/oauth2 keeps the old one if there is no new one
		next.renewAt(token, now)
		return &next, nil
	}
	claims, err := l.identify(ctx, token)
	if errors.Is(err, jwks.ErrUnavailable) {
		return nil, err //nolint:wrapcheck // nobody reads it
	}
	if err != nil || claims[auth.Subject] != s.Claims[auth.Subject] {
		l.parts.Log.Warn("a session is ended: its renewal gave a token that is not valid", "issuer", l.opts.Issuer, "error",
			err)
		return nil, nil //nolint:nilnil // as renew says
	}
	return l.newSession(claims, token, now, end), nil
}
