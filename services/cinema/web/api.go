package web

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// api adds the JSON routes. Errors are RFC 9457 problems.
func (s *Server) api(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/home", answer(s.apiHome))
	mux.HandleFunc("GET /api/titles/{id}", answer(s.apiTitle))
	mux.HandleFunc("GET /api/search", answer(s.apiSearch))
	mux.HandleFunc("GET /api/profiles", answer(s.apiProfiles))
	mux.HandleFunc("POST /api/profiles", answer(s.apiCreateProfile))
	mux.HandleFunc("PUT /api/ratings", answer(s.apiRate))
	mux.HandleFunc("POST /api/playback", answer(s.apiStart))
	mux.HandleFunc("POST /api/playback/{session}/heartbeat", answer(s.apiReport(s.peers.Playback.Heartbeat)))
	mux.HandleFunc("POST /api/playback/{session}/stop", answer(s.apiReport(s.peers.Playback.Stop)))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "there is no route %s %s", r.Method, r.URL.Path))
	})
}

// answer turns a function of request and body into a handler. A body is read for POST and PUT only.
func answer[B any](fn func(*http.Request, B) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body B
		if r.Method == http.MethodPost || r.Method == http.MethodPut {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "reading the body: %w", err))
				return
			}
		}
		out, err := fn(r, body)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(out) // it fails if the client has closed the connection
	}
}

func (s *Server) apiHome(r *http.Request, _ struct{}) (any, error) {
	who := profileOf(r)
	return s.home(r.Context(), who), nil
}

// profileOf returns the profile that the query names, or nil.
func profileOf(r *http.Request) *Viewer {
	if id := r.FormValue("profile"); id != "" {
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

func (s *Server) apiTitle(r *http.Request, _ struct{}) (any, error) {
	who := profileOf(r)
	p, err := s.title(r.Context(), who, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	out := apiTitle{p.Mark, p.Film.Director, int(p.Film.GetMinutes()), p.Film.GetImdbRating(), p.More}
	out.Stars = p.Mine
	return out, nil
}

func (s *Server) apiSearch(r *http.Request, _ struct{}) (any, error) {
	found, err := s.peers.Search.Search(r.Context(), &searchv1.SearchRequest{Query: r.FormValue("q")})
	if err != nil {
		return nil, err
	}
	cards := []Card{}
	for _, h := range found.Hits {
		cards = append(cards, card(&catalogv1.Title{Id: h.TitleId, Name: h.Name, Year: h.Year, Genre: h.Genre}))
	}
	return map[string]any{"hits": cards, "total": found.Total}, nil
}

func (s *Server) apiProfiles(r *http.Request, _ struct{}) (any, error) {
	all, err := s.peers.Profiles.List(r.Context(), &profilesv1.ListRequest{Household: r.FormValue("household")})
	if err != nil {
		return nil, err
	}
	out := []*Viewer{}
	for _, p := range all.Profiles {
		out = append(out, &Viewer{p.Id, p.Name})
	}
	return map[string]any{"profiles": out}, nil
}

type newProfile struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Household string `json:"household"`
}

func (s *Server) apiCreateProfile(r *http.Request, b newProfile) (any, error) {
	p, err := s.peers.Profiles.Create(r.Context(), &profilesv1.CreateRequest{
		Id: b.ID, Name: b.Name,
		Household: b.Household,
	})
	return &Viewer{p.GetId(), p.GetName()}, err
}

type newRating struct {
	Key     string `json:"key"`
	Profile string `json:"profile"`
	Title   string `json:"title"`
	Stars   int32  `json:"stars"`
}

func (s *Server) apiRate(r *http.Request, b newRating) (any, error) {
	got, err := s.peers.Ratings.Rate(r.Context(), &ratingsv1.RateRequest{
		Key: b.Key, ProfileId: b.Profile, TitleId: b.Title, Stars: b.Stars,
	})
	return map[string]any{"stars": got.GetRating().GetStars(), "applied": got.GetApplied()}, err
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

func sessionOf(p *playbackv1.Session, err error) (any, error) {
	return apiSession{
		p.GetId(), p.GetTitleId(), p.GetPosition().AsDuration().Seconds(), p.GetDuration().AsDuration().Seconds(),
		p.GetSequence(), p.GetStopped(),
	}, err
}

func (s *Server) apiStart(r *http.Request, b newSession) (any, error) {
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

func (s *Server) apiReport(
	send func(context.Context, *playbackv1.HeartbeatRequest, ...grpc.CallOption) (*playbackv1.Session, error),
) func(*http.Request, newReport) (any, error) {
	return func(r *http.Request, b newReport) (any, error) {
		return sessionOf(send(r.Context(), &playbackv1.HeartbeatRequest{
			SessionId: r.PathValue("session"), Sequence: b.Sequence,
			Position: seconds(b.Position),
		}))
	}
}
