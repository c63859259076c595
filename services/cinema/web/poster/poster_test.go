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

func TestEveryFilmHasAPoster(t *testing.T) {
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
			t.Fatalf("%s is not fit for the page:\n%s", f.Id, svg)
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
