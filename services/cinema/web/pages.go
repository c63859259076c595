package web

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/text"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// cookieName is the cookie with the chosen profile: its id, "~" and its name, escaped as a path segment.
const cookieName = "bijou_profile"

// viewerOf returns the profile in the cookie, or nil.
func viewerOf(r *http.Request) *Viewer {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	id, name, _ := strings.Cut(c.Value, "~")
	name, err = url.PathUnescape(name)
	if id == "" || len(id) > 64 || err != nil || len(name) > 160 {
		return nil
	}
	return &Viewer{ID: id, Name: name}
}

// setViewer stores the chosen profile in the cookie.
func setViewer(w http.ResponseWriter, r *http.Request, p *profilesv1.Profile) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: p.Id + "~" + url.PathEscape(p.Name), Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
}

// newKey returns a random id for what a form creates, so that a form that is sent twice creates it once.
func newKey() string { return strings.ToLower(rand.Text()) }

func (s *Server) showHome(w http.ResponseWriter, r *http.Request) error {
	viewer := viewerOf(r)
	h := s.home(r.Context(), viewer)
	return s.show(w, r, view{Name: "home", Title: "Home", Viewer: h.Viewer, Main: h})
}

// titlePage has the data of the page of a film.
type titlePage struct {
	Film    *catalogv1.Title
	Mark    Card // progress
	Mine    int  // stars that the viewer gave
	Average *ratingsv1.Average
	More    []Card
	MoreBy  string
	Key     string
}

func (s *Server) showTitle(w http.ResponseWriter, r *http.Request) error {
	p, err := s.title(r.Context(), viewerOf(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.show(w, r, view{Name: "title", Title: p.Film.Name, Viewer: viewerOf(r), Main: p})
}

// title returns the page of a film. Only the film itself is required; other parts that fail are left out.
func (s *Server) title(ctx context.Context, viewer *Viewer, id string) (*titlePage, error) {
	var g degraded
	var wg sync.WaitGroup
	p := &titlePage{Key: newKey()}
	found := s.titles(ctx, &g, []string{id})
	if len(found) == 0 {
		if g.has("catalog") {
			return nil, errs.Errorf(errs.Unavailable, "showing film %.128q: the catalog does not answer", id)
		}
		return nil, errs.Errorf(errs.NotFound, "showing film %.128q: there is no such film", id)
	}
	p.Film = found[0]
	p.Mark = card(p.Film)
	wg.Go(func() { p.More, p.MoreBy = s.more(ctx, &g, p.Film) })
	wg.Go(func() {
		if all := part(ctx, &g, "ratings", func(ctx context.Context) ([]*ratingsv1.Average, error) {
			found, err := s.peers.Ratings.Averages(ctx, &ratingsv1.AveragesRequest{TitleIds: []string{id}})
			return found.GetAverages(), err
		}, zero); len(all) > 0 {
			p.Average = all[0]
		}
	})
	if viewer != nil {
		wg.Go(func() { p.Mine = s.stars(ctx, &g, viewer.ID)[id] })
		wg.Go(func() {
			if m := part(ctx, &g, "viewing", func(ctx context.Context) (*viewingv1.Bookmark, error) {
				return s.peers.Viewing.GetBookmark(ctx, &viewingv1.GetBookmarkRequest{ProfileId: viewer.ID, TitleId: id})
			}, zero); m != nil {
				p.Mark = marked(p.Mark, m)
			}
		})
	}
	wg.Wait()
	return p, nil
}

// more returns films of the same director, or of the same genre if there are fewer than three, and a heading.
func (s *Server) more(ctx context.Context, g *degraded, film *catalogv1.Title) ([]Card, string) {
	for _, try := range []struct {
		request *catalogv1.PopularRequest
		name    string
		skip    bool
	}{
		{&catalogv1.PopularRequest{Director: film.Director, Limit: 12}, "More by " + film.Director, film.Director == ""},
		{&catalogv1.PopularRequest{Genre: film.Genre, Limit: 15}, "More like this", false},
	} {
		if try.skip {
			continue
		}
		found := part(ctx, g, "catalog", func(ctx context.Context) (*catalogv1.PopularResponse, error) {
			return s.peers.Catalog.Popular(ctx, try.request)
		}, zero)
		var cards []Card
		for _, t := range found.GetTitles() {
			if t.Id != film.Id {
				cards = append(cards, card(t))
			}
		}
		if len(cards) >= 3 {
			return cards, try.name
		}
	}
	return nil, ""
}

// searchPage has the data of the page of the search.
type searchPage struct {
	Query     string
	Cards     []Card
	Total     int
	Corrected bool
}

func (s *Server) showSearch(w http.ResponseWriter, r *http.Request) error {
	p := searchPage{Query: strings.TrimSpace(r.FormValue("q"))}
	if p.Query != "" {
		found, err := s.peers.Search.Search(r.Context(), &searchv1.SearchRequest{Query: text.Bound(p.Query, 200), Limit: 48})
		if err != nil {
			return err
		}
		p.Total = int(found.Total)
		for _, h := range found.Hits {
			p.Cards = append(p.Cards, Card{ID: h.TitleId, Name: h.Name, Year: int(h.Year), Genre: h.Genre})
			p.Corrected = p.Corrected || h.Corrected
		}
	}
	return s.show(w, r, view{Name: "search", Title: "Search", Viewer: viewerOf(r), Query: p.Query, Main: p})
}

// browsePage has the data of one page of all films.
type browsePage struct {
	Genre  string
	Genres []*catalogv1.Genre
	Cards  []Card
	Total  int
	Next   string
}

func (s *Server) showBrowse(w http.ResponseWriter, r *http.Request) error {
	p := browsePage{Genre: r.FormValue("genre")}
	found, err := s.peers.Catalog.Browse(r.Context(), &catalogv1.BrowseRequest{
		Genre:     p.Genre,
		PageToken: r.FormValue("page"),
	})
	if err != nil {
		return err
	}
	s.seen.add(found.Titles...)
	var g degraded
	p.Genres = part(r.Context(), &g, "catalog", func(ctx context.Context) ([]*catalogv1.Genre, error) {
		all, err := s.peers.Catalog.Genres(ctx, &catalogv1.GenresRequest{})
		return all.GetGenres(), err
	}, zero)
	for _, t := range found.Titles {
		p.Cards = append(p.Cards, card(t))
	}
	p.Total = int(found.Total)
	if p.Total == 0 && p.Genre != "" {
		return errs.Errorf(errs.NotFound, "browsing: there is no genre %.64q", p.Genre)
	}
	if found.NextPageToken != "" {
		p.Next = "/browse?" + url.Values{"genre": {p.Genre}, "page": {found.NextPageToken}}.Encode()
	}
	return s.show(w, r, view{Name: "browse", Title: "Browse", Viewer: viewerOf(r), Main: p})
}

func (s *Server) showReport(w http.ResponseWriter, r *http.Request) error {
	report, err := s.peers.Catalog.Report(r.Context(), &catalogv1.ReportRequest{})
	if err != nil {
		return err
	}
	return s.show(w, r, view{Name: "report", Title: "About the data", Viewer: viewerOf(r), Main: report})
}

// profilesPage has the data of the page on which the user chooses a profile.
type profilesPage struct {
	Profiles []*Viewer
	Key      string
}

func (s *Server) showProfiles(w http.ResponseWriter, r *http.Request) error {
	all, err := s.peers.Profiles.List(r.Context(), &profilesv1.ListRequest{})
	if err != nil {
		return err
	}
	p := profilesPage{Key: newKey()}
	for _, profile := range all.Profiles {
		p.Profiles = append(p.Profiles, &Viewer{profile.Id, profile.Name})
	}
	return s.show(w, r, view{Name: "profiles", Title: "Who is watching?", Viewer: viewerOf(r), Main: p})
}

func (s *Server) createProfile(w http.ResponseWriter, r *http.Request) error {
	p, err := s.peers.Profiles.Create(r.Context(), &profilesv1.CreateRequest{
		Id:   r.FormValue("key"),
		Name: r.FormValue("name"),
	})
	if err != nil {
		return err
	}
	setViewer(w, r, p)
	return redirect(w, r, "/")
}

func (s *Server) chooseProfile(w http.ResponseWriter, r *http.Request) error {
	p, err := s.peers.Profiles.Get(r.Context(), &profilesv1.GetRequest{Id: r.FormValue("id")})
	if err != nil {
		return err
	}
	setViewer(w, r, p)
	return redirect(w, r, "/")
}

// requireViewer returns the chosen profile. If there is none, it redirects the browser to the page of profiles and
// returns nil.
func requireViewer(w http.ResponseWriter, r *http.Request) *Viewer {
	viewer := viewerOf(r)
	if viewer == nil {
		_ = redirect(w, r, "/profiles")
	}
	return viewer
}

func (s *Server) rateTitle(w http.ResponseWriter, r *http.Request) error {
	viewer := requireViewer(w, r)
	if viewer == nil {
		return nil
	}
	stars, err := strconv.ParseInt(r.FormValue("stars"), 10, 32)
	if err != nil {
		return errs.Errorf(errs.Invalid, "rating a film").Field("stars", "must be a number of 0 to 5")
	}
	id := r.PathValue("id")
	_, err = s.peers.Ratings.Rate(r.Context(), &ratingsv1.RateRequest{
		// The key has the number of stars: if the user goes back and chooses another number, it is a new rating.
		Key: fmt.Sprintf("%s-%d", r.FormValue("key"), stars), ProfileId: viewer.ID, TitleId: id, Stars: int32(stars),
	})
	if err != nil {
		return err
	}
	return redirect(w, r, "/titles/"+url.PathEscape(id))
}

func (s *Server) playTitle(w http.ResponseWriter, r *http.Request) error {
	viewer := requireViewer(w, r)
	if viewer == nil {
		return nil
	}
	session, err := s.peers.Playback.Start(r.Context(), &playbackv1.StartRequest{
		SessionId: r.FormValue("key"), ProfileId: viewer.ID, TitleId: r.PathValue("id"),
	})
	if err != nil {
		return err
	}
	return redirect(w, r, "/watch/"+session.Id)
}

// watchPage has the data of the player.
type watchPage struct {
	Session  *playbackv1.Session
	Film     *catalogv1.Title
	Position int // seconds
	Duration int
	Next     int64 // sequence of the next report
	Speed    int64
}

// Moves are the jumps for browsers without JavaScript, as seconds from the beginning.
func (p watchPage) Moves() []struct {
	Label    string
	Position int
} {
	at := func(d int) int { return min(max(p.Position+d, 0), p.Duration) }
	return []struct {
		Label    string
		Position int
	}{{"Back 10 min", at(-600)}, {"Forward 1 min", at(60)}, {"Forward 10 min", at(600)}}
}

// Clock formats seconds as h:mm:ss.
func (watchPage) Clock(seconds int) string {
	return fmt.Sprintf("%d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
}

func (s *Server) showWatch(w http.ResponseWriter, r *http.Request) error {
	session, err := s.peers.Playback.Get(r.Context(), &playbackv1.GetRequest{SessionId: r.PathValue("session")})
	if err != nil {
		return err
	}
	if session.Stopped {
		return redirect(w, r, "/titles/"+url.PathEscape(session.TitleId))
	}
	var g degraded
	film := &catalogv1.Title{Id: session.TitleId, Name: "Your film"}
	if found := s.titles(r.Context(), &g, []string{session.TitleId}); len(found) > 0 {
		film = found[0]
	}
	return s.show(w, r, view{Name: "watch", Title: film.Name, Viewer: viewerOf(r), Main: watchPage{
		Session: session, Film: film, Position: int(session.Position.AsDuration().Seconds()),
		Duration: int(session.Duration.AsDuration().Seconds()), Next: session.Sequence + 1, Speed: s.speed.Get(),
	}})
}

func (s *Server) moveWatch(w http.ResponseWriter, r *http.Request) error {
	sequence, err := strconv.ParseInt(r.FormValue("sequence"), 10, 64)
	if err != nil {
		return errs.Errorf(errs.Invalid, "reporting progress").Field("sequence", "must be a number")
	}
	position, err := strconv.Atoi(r.FormValue("position"))
	if err != nil {
		return errs.Errorf(errs.Invalid, "reporting progress").Field("position", "must be a number of seconds")
	}
	report := &playbackv1.HeartbeatRequest{
		SessionId: r.PathValue("session"), Sequence: sequence, Position: seconds(float64(position)),
	}
	send, to := s.peers.Playback.Heartbeat, "/watch/"+url.PathEscape(report.SessionId)
	if r.FormValue("action") == "stop" {
		send = s.peers.Playback.Stop
	}
	if _, err := send(r.Context(), report); err != nil {
		return err
	}
	return redirect(w, r, to)
}

func (s *Server) notFound(http.ResponseWriter, *http.Request) error {
	return errs.Errorf(errs.NotFound, "there is no such page")
}

// redirect sends the browser to a path of this site with GET.
func redirect(w http.ResponseWriter, r *http.Request, path string) error {
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}
