package web

import (
	"context"
	"net/http"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// api returns the routes of the JSON API.
func (s *Server) api() http.Handler {
	mux := new(httpapi.Mux)
	mux.Handle("GET /api/home", apiGet(s, s.apiHome))
	mux.Handle("GET /api/titles/{id}", apiGet(s, s.apiTitle))
	mux.Handle("GET /api/search", apiGet(s, s.apiSearch))
	mux.Handle("GET /api/profiles", apiGet(s, s.apiProfiles))
	mux.Handle("POST /api/profiles", apiBody(s, s.apiCreateProfile))
	mux.Handle("PUT /api/ratings", apiBody(s, s.apiRate))
	mux.Handle("POST /api/playback", apiBody(s, s.apiStart))
	mux.Handle("POST /api/playback/{session}/heartbeat", apiBody(s, apiReport(s.peers.Playback.Heartbeat)))
	mux.Handle("POST /api/playback/{session}/stop", apiBody(s, apiReport(s.peers.Playback.Stop)))
	return mux
}

// apiGet returns a handler for a request without a body.
func apiGet[A any](s *Server, fn func(*http.Request) (A, error)) http.Handler {
	return httpapi.Answer(func(r *http.Request) (A, error) {
		answer, err := fn(r)
		return answer, s.hideCause(r, err)
	})
}

// apiBody returns a handler for a request with a body.
func apiBody[Q, A any](s *Server, fn func(*http.Request, *Q) (A, error)) http.Handler {
	return httpapi.Body(func(r *http.Request, q *Q) (A, error) {
		answer, err := fn(r, q)
		return answer, s.hideCause(r, err)
	})
}

// hiddenError is an error with a text for users. The text of the error itself may have addresses of services.
type hiddenError struct {
	error
	text string
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.error }

// hideCause logs an error of a service that failed, and returns it with a text for users.
func (s *Server) hideCause(r *http.Request, err error) error {
	kind := errs.KindOf(err)
	if err == nil || kind.HTTP() < 500 {
		return err
	}
	s.log.WarnContext(r.Context(), "request failed", "path", r.URL.Path, "error", err.Error())
	return &hiddenError{err, textOf(kind).Sentence}
}

func (s *Server) apiHome(r *http.Request) (*Home, error) {
	return s.home(r.Context(), profileOf(r)), nil
}

// profileOf returns the profile that the query names, or nil.
func profileOf(r *http.Request) *Viewer {
	if id := r.URL.Query().Get("profile"); id != "" {
		return &Viewer{ID: id}
	}
	return nil
}

// apiTitle is the JSON form of a film.
type apiTitle struct {
	Card
	Director string  `json:"director,omitempty"`
	Minutes  int     `json:"minutes,omitempty"`
	Rating   float64 `json:"imdbRating,omitempty"`
	More     []Card  `json:"more,omitempty"`
}

func (s *Server) apiTitle(r *http.Request) (*apiTitle, error) {
	p, err := s.title(r.Context(), profileOf(r), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	out := &apiTitle{p.Mark, p.Film.Director, int(p.Film.GetMinutes()), p.Film.GetImdbRating(), p.More}
	out.Stars = p.Mine
	return out, nil
}

// apiHits is the JSON form of the result of a search.
type apiHits struct {
	Hits []Card `json:"hits"`
	// Total is the number of films that match; Hits has the best of them.
	Total int32 `json:"total"`
}

func (s *Server) apiSearch(r *http.Request) (*apiHits, error) {
	found, err := s.peers.Search.Search(r.Context(), &searchv1.SearchRequest{Query: r.URL.Query().Get("q")})
	if err != nil {
		return nil, err
	}
	out := &apiHits{Hits: []Card{}, Total: found.Total}
	for _, h := range found.Hits {
		out.Hits = append(out.Hits, Card{ID: h.TitleId, Name: h.Name, Year: int(h.Year), Genre: h.Genre})
	}
	return out, nil
}

// apiProfiles is the JSON form of a household.
type apiProfiles struct {
	Profiles []*Viewer `json:"profiles"`
}

func (s *Server) apiProfiles(r *http.Request) (*apiProfiles, error) {
	all, err := s.peers.Profiles.List(r.Context(), &profilesv1.ListRequest{Household: r.URL.Query().Get("household")})
	if err != nil {
		return nil, err
	}
	out := &apiProfiles{Profiles: []*Viewer{}}
	for _, p := range all.Profiles {
		out.Profiles = append(out.Profiles, &Viewer{p.Id, p.Name})
	}
	return out, nil
}

type newProfile struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Household string `json:"household"`
}

func (s *Server) apiCreateProfile(r *http.Request, b *newProfile) (*Viewer, error) {
	p, err := s.peers.Profiles.Create(r.Context(), &profilesv1.CreateRequest{
		Id: b.ID, Name: b.Name, Household: b.Household,
	})
	return &Viewer{p.GetId(), p.GetName()}, err
}

type newRating struct {
	Key     string `json:"key"`
	Profile string `json:"profile"`
	Title   string `json:"title"`
	Stars   int32  `json:"stars"`
}

// apiRating is the rating after a request. Zero stars: there is none.
type apiRating struct {
	Stars int32 `json:"stars"`
	// Applied is false if the key had been applied before.
	Applied bool `json:"applied"`
}

func (s *Server) apiRate(r *http.Request, b *newRating) (*apiRating, error) {
	got, err := s.peers.Ratings.Rate(r.Context(), &ratingsv1.RateRequest{
		Key: b.Key, ProfileId: b.Profile, TitleId: b.Title, Stars: b.Stars,
	})
	return &apiRating{got.GetRating().GetStars(), got.GetApplied()}, err
}

type newSession struct {
	Session string `json:"session"`
	Profile string `json:"profile"`
	Title   string `json:"title"`
}

// apiSession is the JSON form of a session, in seconds.
type apiSession struct {
	Session  string  `json:"session"`
	Title    string  `json:"title"`
	Position float64 `json:"position"`
	Duration float64 `json:"duration"`
	Sequence int64   `json:"sequence"`
	Stopped  bool    `json:"stopped,omitempty"`
}

func sessionOf(p *playbackv1.Session, err error) (*apiSession, error) {
	return &apiSession{
		p.GetId(), p.GetTitleId(), p.GetPosition().AsDuration().Seconds(), p.GetDuration().AsDuration().Seconds(),
		p.GetSequence(), p.GetStopped(),
	}, err
}

func (s *Server) apiStart(r *http.Request, b *newSession) (*apiSession, error) {
	return sessionOf(s.peers.Playback.Start(r.Context(), &playbackv1.StartRequest{
		SessionId: b.Session, ProfileId: b.Profile, TitleId: b.Title,
	}))
}

type newReport struct {
	Sequence int64   `json:"sequence"`
	Position float64 `json:"position"`
}

// seconds converts a position in a film. Playback limits it to the duration of the film.
func seconds(position float64) *durationpb.Duration {
	return durationpb.New(time.Duration(min(max(position, 0), 1e6) * float64(time.Second)))
}

func apiReport(
	send func(context.Context, *playbackv1.HeartbeatRequest, ...grpc.CallOption) (*playbackv1.Session, error),
) func(*http.Request, *newReport) (*apiSession, error) {
	return func(r *http.Request, b *newReport) (*apiSession, error) {
		return sessionOf(send(r.Context(), &playbackv1.HeartbeatRequest{
			SessionId: r.PathValue("session"), Sequence: b.Sequence, Position: seconds(b.Position),
		}))
	}
}
