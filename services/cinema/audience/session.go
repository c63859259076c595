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

// subscribers is how many profiles the audience has. They are a household of their own.
const subscribers = 40

// visit is one session.
type visit struct {
	*Load
	random  *rand.Rand
	due     time.Time // of the next step
	profile string
}

// film is what a session knows of a film.
type film struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// errEmpty is a home page that answers and has nothing to see.
var errEmpty = errors.New("the home page has no films")

// session is what a subscriber does: look at home, perhaps search, open a film, perhaps play and rate it. Whoever
// finds home broken goes away.
func (l *Load) session(ctx context.Context, due time.Time, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // load, not secrets
	v := &visit{Load: l, random: r, due: due, profile: fmt.Sprintf("audience-%02d", 1+r.IntN(subscribers))}
	if _, ok := l.joined.Load(v.profile); !ok {
		body := map[string]any{"id": v.profile, "name": v.profile, "household": "audience"}
		if v.do(ctx, "join", http.MethodPost, "/api/profiles", body, nil) == nil {
			l.joined.Store(v.profile, true)
		}
		if !v.pause(ctx) { // else home would count the time of joining, too
			return
		}
	}
	films, err := v.home(ctx)
	if err != nil || !v.pause(ctx) {
		return
	}
	one := films[r.IntN(len(films))]
	if r.Float64() < 0.4 {
		letters := []rune(one.Name)
		query := url.QueryEscape(string(letters[:min(len(letters), 4+r.IntN(4))]))
		if v.do(ctx, "search", http.MethodGet, "/api/search?q="+query, nil, nil) != nil || !v.pause(ctx) {
			return
		}
	}
	if v.do(ctx, "title", http.MethodGet, "/api/titles/"+one.ID+"?profile="+v.profile, nil, nil) != nil {
		return
	}
	if r.Float64() < 0.6 && v.pause(ctx) {
		v.play(ctx, one)
	}
	if r.Float64() < 0.3 && v.pause(ctx) {
		_ = v.do(ctx, "rate", http.MethodPut, "/api/ratings",
			map[string]any{"key": fmt.Sprintf("a-%x", r.Uint64()), "profile": v.profile, "title": one.ID, "stars": 1 + r.IntN(5)}, nil)
	}
}

// home returns the films of the home page.
func (v *visit) home(ctx context.Context) ([]film, error) {
	var films []film
	var page struct {
		Rows     []struct{ Cards []film }
		Degraded []string
	}
	err := v.do(ctx, "home", http.MethodGet, "/api/home?profile="+v.profile, nil, func(body []byte) error {
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
		v.stats.degraded()
	}
	return films, err
}

// play watches a film in a few steps.
func (v *visit) play(ctx context.Context, one film) {
	session := fmt.Sprintf("a-%016x", v.random.Uint64())
	body := map[string]any{"session": session, "profile": v.profile, "title": one.ID}
	if v.do(ctx, "play", http.MethodPost, "/api/playback", body, nil) != nil {
		return
	}
	beats := 1 + v.random.IntN(4)
	for n := 1; n <= beats; n++ {
		if !v.pause(ctx) {
			return
		}
		op, what := "heartbeat", "/heartbeat"
		if n == beats {
			op, what = "stop", "/stop"
		}
		report := map[string]any{"sequence": n, "position": 60 + v.random.IntN(5000)}
		if v.do(ctx, op, http.MethodPost, "/api/playback/"+session+what, report, nil) != nil {
			return
		}
	}
}

// pause plans the next step and waits for it, unless it is late already.
func (v *visit) pause(ctx context.Context) bool {
	v.due = v.due.Add(time.Duration(v.random.ExpFloat64() * float64(v.think.Get())))
	return pace.Sleep(ctx, time.Until(v.due))
}

// do makes one request, which was due at v.due, and counts it. check may refuse the body of a good answer.
func (v *visit) do(ctx context.Context, op, method, path string, body any, check func([]byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, v.patient.Get())
	defer cancel()
	err := v.send(ctx, method, path, body, check)
	v.stats.request(op, time.Since(v.due), err == nil)
	if err != nil {
		v.log.Debug("request failed", "op", op, "path", path, "problem", err.Error())
	}
	return err
}

func (v *visit) send(ctx context.Context, method, path string, body any, check func([]byte) error) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(v.opts.Target, "/")+path, payload)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := v.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	switch {
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)
	case check != nil:
		return check(answer)
	}
	return nil
}
