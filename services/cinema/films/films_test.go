package films_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	"bijou.dev/services/cinema/films"
)

func counts(r *catalogv1.ReportResponse) map[string]int32 {
	out := map[string]int32{}
	for _, f := range r.Findings {
		out[f.Kind] = f.Count
	}
	return out
}

// The counts describe the bundled file; they change only when the file or a rule does.
func TestBundledList(t *testing.T) {
	titles, report := films.Load()
	if report.Records != 3201 || report.Loaded != 3200 || report.Skipped != 1 || len(titles) != 3200 {
		t.Fatalf("records %d, loaded %d, skipped %d, titles %d", report.Records, report.Loaded, report.Skipped, len(titles))
	}
	want := map[string]int32{
		"no_title":                1,  // Nov 03 2006, 11986 votes: the only record that cannot be shown
		"numeric_title":           9,  // 1776, 1941, 1408, 2012, 2046, 21, 300, 9, 54
		"damaged_title":           18, // LÈon and others: Windows letters read as Macintosh letters
		"stray_spaces":            2,
		"inverted_title":          6,   // Barbarians, The; Boot, Das; Couloirs du temps, Les
		"impossible_date":         22,  // 2015 to 2046: two-digit years in the wrong century
		"shared_rating":           23,  // remakes with the votes of the original
		"zero_amount":             113, // US and worldwide takings that nobody reported
		"missing_genre":           275,
		"missing_creative_type":   446,
		"missing_director":        1330, // 1,331 nulls, one of them in the record without a title
		"missing_certificate":     605,
		"missing_distributor":     232,
		"missing_source":          365,
		"missing_minutes":         1992, // nearly two thirds: playback estimates
		"missing_imdb_rating":     213,
		"missing_imdb_votes":      213,
		"missing_tomatoes":        880,
		"missing_us_gross":        7,
		"missing_worldwide_gross": 7,
		"missing_budget":          1,
	}
	if diff := cmp.Diff(want, counts(report)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestKnownFilms(t *testing.T) {
	titles, _ := films.Load()
	byID := map[string]*catalogv1.Title{}
	for _, f := range titles {
		if byID[f.Id] != nil || f.Id == "" || f.Name == "" {
			t.Errorf("film %q has id %q, which is empty or taken", f.Name, f.Id)
		}
		byID[f.Id] = f
	}
	for id, want := range map[string]struct {
		name string
		year int32
	}{
		"the-godfather-1972":              {"The Godfather", 1972},
		"300-2007":                        {"300", 2007},
		"2046-2005":                       {"2046", 2005},
		"gone-with-the-wind":              {"Gone with the Wind", 0},
		"ben-hur":                         {"Ben-Hur", 0},
		"ben-hur-1959":                    {"Ben-Hur", 1959},
		"crash-1996":                      {"Crash", 1996},
		"crash-2005":                      {"Crash", 2005},
		"deja-vu-2006":                    {"Déjà Vu", 2006},
		"leon-1994":                       {"Léon", 1994},
		"the-barbarians-1987":             {"The Barbarians", 1987},
		"das-boot-1982":                   {"Das Boot", 1982},
		"alien3-1992":                     {"Alien³", 1992},
		"schindlers-list-1993":            {"Schindler's List", 1993},
		"twelve-monkeys-1995":             {"Twelve Monkeys", 1995},
		"the-transporter-2-2005":          {"The Transporter 2", 2005},
		"aimee-and-jaguar-2000":           {"Aimée & Jaguar", 2000},
		"per-qualche-dollaro-in-piu-1967": {"Per qualche dollaro in più", 1967},
	} {
		if f := byID[id]; f == nil || f.Name != want.name || f.Year != want.year {
			t.Errorf("%s: got %v, want %v", id, f, want)
		}
	}
}

func TestFaults(t *testing.T) {
	film := func(fields string) string { return `[{"Title": "Film", "Release Date": "Jan 01 2000"` + fields + `}]` }
	for name, tc := range map[string]struct {
		list   string
		loaded int32
		kind   string
		count  int32
	}{
		"empty list":         {`[]`, 0, "", 0},
		"not a list":         {`{"a": 1}`, 0, "broken_file", 1},
		"nothing":            {``, 0, "broken_file", 1},
		"cut in a record":    {film("")[:20], 0, "broken_file", 1},
		"cut after a record": {strings.TrimSuffix(film(""), "]") + ",", 1, "broken_file", 1},
		"trailing text":      {film("") + "x", 1, "broken_file", 1},
		"null record":        {`[null, 4, "x", []]`, 0, "not_a_film", 4},
		"title is an object": {`[{"Title": {}}]`, 0, "no_title", 1},
		"title is blank":     {`[{"Title": "  "}]`, 0, "no_title", 1},
		"no date":            {`[{"Title": "Film"}]`, 1, "missing_date", 1},
		"words for a date":   {`[{"Title": "Film", "Release Date": "soon"}]`, 1, "unreadable_date", 1},
		"day 31 of June":     {`[{"Title": "Film", "Release Date": "Jun 31 2000"}]`, 1, "unreadable_date", 1},
		"far future":         {`[{"Title": "Film", "Release Date": "Jun 30 2046"}]`, 1, "impossible_date", 1},
		"before cinema":      {`[{"Title": "Film", "Release Date": "Jun 30 1846"}]`, 1, "impossible_date", 1},
		"rating of 11":       {film(`, "IMDB Rating": 11`), 1, "impossible_number", 1},
		"votes as text":      {film(`, "IMDB Votes": "many"`), 1, "impossible_number", 1},
		"no money at all":    {film(`, "US Gross": 0`), 1, "zero_amount", 1},
		"same film twice":    {`[{"Title": "A B"}, {"Title": "a b"}]`, 1, "duplicate", 1},
		"same id, not same":  {`[{"Title": "A-B"}, {"Title": "A B"}]`, 2, "same_id", 1},
		"names of signs":     {`[{"Title": "?!"}, {"Title": "!?"}]`, 2, "same_id", 1},
	} {
		t.Run(name, func(t *testing.T) {
			titles, report := films.Parse([]byte(tc.list))
			if report.Loaded != tc.loaded || len(titles) != int(tc.loaded) {
				t.Errorf("loaded %d (%d titles), want %d", report.Loaded, len(titles), tc.loaded)
			}
			if got := counts(report)[tc.kind]; got != tc.count {
				t.Errorf("%s counted %d times, want %d: %v", tc.kind, got, tc.count, report.Findings)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"Title": "Film", "Release Date": "Jan 01 2000", "IMDB Rating": 1e400, "IMDB Votes": -1}]`))
	f.Add([]byte(`[{"Title": 300}, {"Title": null}, null, {"Title": "LÈon, The", "US Gross": 0}]`))
	f.Add([]byte(`[{"Title": "\ud800"}, {"Title": "&"}, {"Title": "& A"}`))
	f.Fuzz(func(t *testing.T, list []byte) {
		titles, report := films.Parse(list)
		if report.Loaded+report.Skipped != report.Records || int(report.Loaded) != len(titles) {
			t.Errorf("%d loaded and %d skipped of %d, %d titles", report.Loaded, report.Skipped, report.Records, len(titles))
		}
		seen := map[string]bool{}
		for _, f := range titles {
			if seen[f.Id] || f.Id == "" || strings.Trim(f.Id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				t.Errorf("id %q is taken or not fit for an address", f.Id)
			}
			seen[f.Id] = true
			if f.Name == "" || !utf8.ValidString(f.Name) {
				t.Errorf("name %q", f.Name)
			}
		}
	})
}
