// Package films holds the film data and makes a clean list of it.
//
// The data is a public list with known faults (see the README in this folder). Load keeps valid values, repairs what
// can be repaired without guessing, leaves out the rest, and counts each fault. It does not fail: of a damaged file it
// returns the films before the damage, and a finding that describes it.
package films

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

//go:embed movies.json
var data []byte

// The years a release can have. The list was compiled in 2010 and announces films for 2011; later years are two-digit
// years that were read as 20xx and not 19xx.
const (
	oldest = 1890
	newest = 2011
)

// Load returns the films of the bundled list in its order, and the report of its faults. The caller may change both.
func Load() ([]*catalogv1.Title, *catalogv1.ReportResponse) { return Parse(data) }

// Parse is Load for another list in the format of movies.json: an array of objects. It repairs titles as those of the
// bundled list, so accented letters that are right would be changed.
func Parse(list []byte) ([]*catalogv1.Title, *catalogv1.ReportResponse) {
	l := &loader{
		report: &catalogv1.ReportResponse{}, ids: map[string]bool{}, known: map[string]bool{}, rated: map[rated]bool{},
	}
	dec := json.NewDecoder(bytes.NewReader(list))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		l.find("broken_file", "stopped reading", "not an array")
		return nil, l.report
	}
	var titles []*catalogv1.Title
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			l.find("broken_file", "stopped reading", fmt.Sprintf("after record %d: %v", l.report.Records, err))
			return titles, l.report
		}
		l.report.Records++
		if t := l.record(raw); t != nil {
			l.report.Loaded++
			titles = append(titles, t)
		} else {
			l.report.Skipped++
		}
	}
	if _, err := dec.Token(); err != nil {
		l.find("broken_file", "stopped reading", fmt.Sprintf("after record %d: no end", l.report.Records))
	} else if _, err := dec.Token(); err != io.EOF {
		l.find("broken_file", "stopped reading", "something follows the array")
	}
	return titles, l.report
}

// rated is a rating. If two films with the same title have equal ratings, one rating is a copy of the other.
type rated struct {
	name  string
	stars float64
	votes int32
}

type loader struct {
	report *catalogv1.ReportResponse
	ids    map[string]bool
	known  map[string]bool // name and year, folded
	rated  map[rated]bool
}

// find counts a fault and keeps the first few examples.
func (l *loader) find(kind, action, example string) {
	for _, f := range l.report.Findings {
		if f.Kind == kind {
			if f.Count++; len(f.Examples) < 5 {
				f.Examples = append(f.Examples, example)
			}
			return
		}
	}
	l.report.Findings = append(l.report.Findings,
		&catalogv1.Finding{Kind: kind, Action: action, Count: 1, Examples: []string{example}})
}

// fields is one record, with the loader that counts its faults.
type fields struct {
	*loader
	raw  map[string]json.RawMessage
	name string
}

// where returns a message that begins with the number and the name of the record.
func (f *fields) where(format string, args ...any) string {
	return fmt.Sprintf("record %d, %s: ", f.report.Records, f.name) + fmt.Sprintf(format, args...)
}

func (l *loader) record(raw json.RawMessage) *catalogv1.Title {
	f := &fields{loader: l}
	if err := json.Unmarshal(raw, &f.raw); err != nil || f.raw == nil {
		l.find("not_a_film", "left out", fmt.Sprintf("record %d", l.report.Records))
		return nil
	}
	if f.name = f.title(); f.name == "" {
		l.find("no_title", "left out", fmt.Sprintf("record %d", l.report.Records))
		return nil
	}
	t := &catalogv1.Title{Name: f.name}
	f.date(t)
	key := fmt.Sprintf("%s/%d", strings.ToLower(t.Name), t.Year)
	if l.known[key] {
		l.find("duplicate", "left out", f.where("the same title and year as an earlier record"))
		return nil
	}
	l.known[key] = true
	f.words(t)
	f.numbers(t)
	f.sharedRating(t)
	t.Id = l.id(t)
	return t
}

func (f *fields) words(t *catalogv1.Title) {
	t.Genre = f.text("Major Genre", "missing_genre")
	t.CreativeType = f.text("Creative Type", "missing_creative_type")
	t.Director = f.text("Director", "missing_director")
	t.Certificate = f.text("MPAA Rating", "missing_certificate")
	t.Distributor = f.text("Distributor", "missing_distributor")
	t.Source = f.text("Source", "missing_source")
}

func (f *fields) numbers(t *catalogv1.Title) {
	if v, ok := f.number("Running Time min", "missing_minutes", 1, 1000); ok {
		t.Minutes = new(int32(v))
	}
	if v, ok := f.number("IMDB Rating", "missing_imdb_rating", 0, 10); ok {
		t.ImdbRating = new(v)
	}
	if v, ok := f.number("IMDB Votes", "missing_imdb_votes", 0, math.MaxInt32); ok {
		t.ImdbVotes = int32(v)
	}
	if v, ok := f.number("Rotten Tomatoes Rating", "missing_tomatoes", 0, 100); ok {
		t.Tomatoes = new(int32(v))
	}
	t.UsGross = f.money("US Gross", "missing_us_gross")
	t.WorldwideGross = f.money("Worldwide Gross", "missing_worldwide_gross")
	t.Budget = f.money("Production Budget", "missing_budget")
}

// text returns a string field without superfluous spaces, or "".
func (f *fields) text(key, missing string) string {
	var s string
	if err := json.Unmarshal(f.raw[key], &s); err == nil {
		s = strings.Join(strings.Fields(s), " ")
	}
	if s == "" {
		f.find(missing, "shown as not known", f.where("no %s", key))
	}
	return s
}

// number returns a field that is a number between low and high.
func (f *fields) number(key, missing string, low, high float64) (float64, bool) {
	raw := f.raw[key]
	if len(raw) == 0 || string(raw) == "null" {
		f.find(missing, "shown as not known", f.where("no %s", key))
		return 0, false
	}
	var v float64
	if err := json.Unmarshal(raw, &v); err != nil || v < low || v > high {
		f.find("impossible_number", "dropped", f.where("%s is %.40s", key, raw))
		return 0, false
	}
	return v, true
}

// money returns an amount of dollars. In the list, 0 stands for an unknown amount.
func (f *fields) money(key, missing string) *int64 {
	v, ok := f.number(key, missing, 0, 1e12)
	if !ok {
		return nil
	}
	if v == 0 {
		f.find("zero_amount", "shown as not known", f.where("%s is 0", key))
		return nil
	}
	return new(int64(v))
}

// date sets the day and the year of release if they are possible.
func (f *fields) date(t *catalogv1.Title) {
	var s string
	if err := json.Unmarshal(f.raw["Release Date"], &s); err != nil || s == "" {
		f.find("missing_date", "shown as not known", f.where("no Release Date"))
		return
	}
	day, err := time.Parse("Jan 2 2006", s)
	switch {
	case err != nil:
		f.find("unreadable_date", "dropped", f.where("%.40q", s))
	case day.Year() < oldest || day.Year() > newest:
		f.find("impossible_date", "dropped", f.where("%s", s))
	default:
		t.Year, t.Released = int32(day.Year()), day.Format(time.DateOnly)
	}
}

// sharedRating counts films that have the rating of another film with the same title. The list was joined by title
// only, so a remake and its original have the same rating. It is unknown which of the two it belongs to, so both keep
// it.
func (f *fields) sharedRating(t *catalogv1.Title) {
	if t.ImdbVotes == 0 {
		return
	}
	key := rated{strings.ToLower(t.Name), t.GetImdbRating(), t.ImdbVotes}
	if f.rated[key] {
		f.find("shared_rating", "kept", f.where("another film with this title has the same rating, %.1f of %d votes",
			key.stars, key.votes))
	}
	f.rated[key] = true
}

// id returns an id for t that is different from those of all earlier films.
func (l *loader) id(t *catalogv1.Title) string {
	base := slug(t.Name)
	if t.Year > 0 {
		base += "-" + strconv.Itoa(int(t.Year))
	}
	id := base
	for n := 2; l.ids[id]; n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	if id != base {
		l.find("same_id", "numbered", fmt.Sprintf("record %d, %s: %s", l.report.Records, t.Name, id))
	}
	l.ids[id] = true
	return id
}
