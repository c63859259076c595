package audience

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bijou.dev/platform/pace"
)

// subscribers is the number of profiles of the audience. They are all in the household "audience".
const subscribers = 40

// subscriber is the user of one session.
type subscriber struct {
	*Load
	random  *rand.Rand
	due     time.Time // of the next step
	profile string
}

// The bodies of requests and the parts of responses that a session uses.
type (
	film struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	homePage struct {
		Rows []struct {
			Cards []film `json:"cards"`
		} `json:"rows"`
		Degraded []string `json:"degraded"`
	}
	newProfile struct {
		ID        string `json:"id"`
		Name      string `json:"name"`
		Household string `json:"household"`
	}
	newSession struct {
		Session string `json:"session"`
		Profile string `json:"profile"`
		Title   string `json:"title"`
	}
	progress struct {
		Sequence int `json:"sequence"`
		Position int `json:"position"`
	}
	newRating struct {
		Key     string `json:"key"`
		Profile string `json:"profile"`
		Title   string `json:"title"`
		Stars   int    `json:"stars"`
	}
)

// errEmpty is the error of a home page without films.
var errEmpty = errors.New("the home page has no films")

// session runs one session: it opens the home page, may search, opens the page of a film, may play it and rate it. It
// ends at the first failed request for the home page, a search or a film.
func (l *Load) session(ctx context.Context, due time.Time, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // not for secrets
	s := &subscriber{Load: l, random: r, due: due, profile: fmt.Sprintf("audience-%02d", 1+r.IntN(subscribers))}
	if _, ok := l.created.Load(s.profile); !ok {
		body := newProfile{ID: s.profile, Name: s.profile, Household: "audience"}
		if s.do(ctx, "join", http.MethodPost, "/api/profiles", body, nil) == nil {
			l.created.Store(s.profile, true)
		}
		if !s.pause(ctx) { // so that the latency of the home page does not include the creation
			return
		}
	}
	films, err := s.home(ctx)
	if err != nil || !s.pause(ctx) {
		return
	}
	chosen := films[r.IntN(len(films))]
	if r.Float64() < 0.4 {
		letters := []rune(chosen.Name)
		query := url.QueryEscape(string(letters[:min(len(letters), 4+r.IntN(4))]))
		if s.do(ctx, "search", http.MethodGet, "/api/search?q="+query, nil, nil) != nil || !s.pause(ctx) {
			return
		}
	}
	if s.do(ctx, "title", http.MethodGet, "/api/titles/"+chosen.ID+"?profile="+s.profile, nil, nil) != nil {
		return
	}
	if r.Float64() < 0.6 && s.pause(ctx) {
		s.play(ctx, chosen)
	}
	if r.Float64() < 0.3 && s.pause(ctx) {
		_ = s.do(ctx, "rate", http.MethodPut, "/api/ratings", newRating{
			Key: fmt.Sprintf("a-%x", r.Uint64()), Profile: s.profile, Title: chosen.ID, Stars: 1 + r.IntN(5),
		}, nil)
	}
}

// home requests the home page and returns its films.
func (s *subscriber) home(ctx context.Context) ([]film, error) {
	var films []film
	var page homePage
	err := s.do(ctx, "home", http.MethodGet, "/api/home?profile="+s.profile, nil, func(body []byte) error {
		if err := json.Unmarshal(body, &page); err != nil {
			return err
		}
		for _, row := range page.Rows {
			films = append(films, row.Cards...)
		}
		if len(films) == 0 {
			return errEmpty
		}
		return nil
	})
	if len(page.Degraded) > 0 {
		s.stats.degraded()
	}
	return films, err
}

// play plays a film and reports progress one to four times.
func (s *subscriber) play(ctx context.Context, chosen film) {
	session := fmt.Sprintf("a-%016x", s.random.Uint64())
	body := newSession{Session: session, Profile: s.profile, Title: chosen.ID}
	if s.do(ctx, "play", http.MethodPost, "/api/playback", body, nil) != nil {
		return
	}
	beats := 1 + s.random.IntN(4)
	for n := 1; n <= beats; n++ {
		if !s.pause(ctx) {
			return
		}
		op := "heartbeat"
		if n == beats {
			op = "stop"
		}
		report := progress{Sequence: n, Position: 60 + s.random.IntN(5000)}
		if s.do(ctx, op, http.MethodPost, "/api/playback/"+session+"/"+op, report, nil) != nil {
			return
		}
	}
}

// pause plans the next step and waits until it is due. It reports whether ctx is still running.
func (s *subscriber) pause(ctx context.Context) bool {
	s.due = s.due.Add(time.Duration(s.random.ExpFloat64() * float64(s.think.Get())))
	return pace.Sleep(ctx, time.Until(s.due))
}

// do sends one request, which was due at s.due, and counts it. check, if not nil, checks the body of a response with
// status 200.
func (s *subscriber) do(ctx context.Context, op, method, path string, body any, check func([]byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout.Get())
	defer cancel()
	err := s.send(ctx, method, path, body, check)
	s.stats.request(op, time.Since(s.due), err == nil)
	if err != nil {
		s.log.Debug("request failed", "op", op, "path", path, "error", err.Error())
	}
	return err
}

func (s *subscriber) send(ctx context.Context, method, path string, body any, check func([]byte) error) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.opts.Target, "/")+path, payload)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return fmt.Errorf("reading the response: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
	case check != nil:
		return check(content)
	}
	return nil
}
