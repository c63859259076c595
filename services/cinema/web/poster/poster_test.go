package poster_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"bijou.dev/services/cinema/films"
	"bijou.dev/services/cinema/web/poster"
)

// wellFormed returns an error if svg is not XML.
func wellFormed(svg string) error {
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestPostersAreWellFormedAndRepeatable(t *testing.T) {
	titles, _ := films.Load()
	for _, f := range titles {
		film := poster.Film{ID: f.Id, Name: f.Name, Genre: f.Genre, Year: int(f.Year)}
		svg := string(poster.Poster(film))
		if err := wellFormed(svg); err != nil {
			t.Fatalf("%s: %v\n%s", f.Id, err, svg)
		}
		if svg != string(poster.Poster(film)) {
			t.Fatalf("%s is drawn differently the second time", f.Id)
		}
		if strings.Contains(svg, "style=") || strings.Contains(svg, " id=") || strings.Contains(svg, "NaN") {
			t.Fatalf("the poster of %s has a style, an id or NaN:\n%s", f.Id, svg)
		}
	}
}

func TestNamesAreEscaped(t *testing.T) {
	for _, name := range []string{
		"", "<script>alert(1)</script>", `"&'`, strings.Repeat("W", 400),
		strings.Repeat("word ", 90),
	} {
		for _, genre := range []string{"Drama", "", "<b>"} {
			for _, svg := range []string{
				string(poster.Poster(poster.Film{Name: name, Genre: genre})),
				string(poster.Banner(poster.Film{Name: name, Genre: genre})),
			} {
				if err := wellFormed(svg); err != nil || strings.Contains(svg, "<script") {
					t.Errorf("name %.20q: %v\n%s", name, err, svg)
				}
			}
		}
	}
}

func TestPostersOfDifferentFilmsDiffer(t *testing.T) {
	base := poster.Film{ID: "film", Name: "Film", Genre: "Drama", Year: 1999}
	change := func(fn func(*poster.Film)) poster.Film { f := base; fn(&f); return f }
	for field, f := range map[string]poster.Film{
		"id":    change(func(f *poster.Film) { f.ID = "other" }),
		"name":  change(func(f *poster.Film) { f.Name = "Other" }),
		"genre": change(func(f *poster.Film) { f.Genre = "Western" }),
		"year":  change(func(f *poster.Film) { f.Year = 1950 }),
	} {
		if poster.Poster(f) == poster.Poster(base) {
			t.Errorf("films with different %s have the same poster", field)
		}
	}
}

func TestPostersShowTheNameAndBannersHaveNoText(t *testing.T) {
	for name, want := range map[string][]string{
		"Film":               {">FILM<", ">1999<"},
		"A Film in 13":       {">A FILM IN 13<"},
		"The Lord of Things": {">THE LORD OF<", ">THINGS<"},
		"Ω":                  {">Ω<"},
	} {
		f := poster.Film{ID: "film", Name: name, Genre: "Drama", Year: 1999}
		svg := string(poster.Poster(f))
		for _, text := range want {
			if !strings.Contains(svg, text) {
				t.Errorf("the poster of %q does not contain %q:\n%s", name, text, svg)
			}
		}
		if banner := string(poster.Banner(f)); strings.Contains(banner, "<text") {
			t.Errorf("the banner of %q has text:\n%s", name, banner)
		}
	}
	if svg := string(poster.Poster(poster.Film{Name: "Film"})); strings.Count(svg, "<text") != 1 {
		t.Errorf("the poster of a film without a year has other text than the name:\n%s", svg)
	}
	long := string(poster.Poster(poster.Film{Name: strings.Repeat("word ", 90)}))
	if n := strings.Count(long, "<text"); n != 4 || !strings.Contains(long, "…<") {
		t.Errorf("the poster of a long name has %d lines, want 4 of which the last ends with …:\n%s", n, long)
	}
}

func BenchmarkPoster(b *testing.B) {
	titles, _ := films.Load()
	b.ReportAllocs()
	bytes := 0
	for i := 0; b.Loop(); i++ {
		f := titles[i%len(titles)]
		bytes += len(poster.Poster(poster.Film{ID: f.Id, Name: f.Name, Genre: f.Genre, Year: int(f.Year)}))
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "B/poster")
}
