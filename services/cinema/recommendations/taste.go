package recommendations

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// feature is a property that films can share.
type feature struct {
	kind  string // genre, director, type or decade
	value string
}

// weights has the most that each kind of feature adds to a score. Popularity adds at most 1.
var weights = map[string]float64{"genre": 0.5, "director": 0.6, "type": 0.2, "decade": 0.1}

// taste has the opinion of a profile about each feature, from -1 (bad) to 1 (good). 0: none.
type taste map[feature]float64

func features(t *catalogv1.Title) []feature {
	decade := ""
	if t.Year > 0 {
		decade = fmt.Sprintf("%d", t.Year/10*10)
	}
	all := []feature{{"genre", t.Genre}, {"director", t.Director}, {"type", t.CreativeType}, {"decade", decade}}
	return slices.DeleteFunc(all, func(f feature) bool { return f.value == "" })
}

// tasteOf returns the average opinion about each feature of the films. The 2 in the divisor counts as two films without
// an opinion: a single opinion has little weight.
func tasteOf(films []*catalogv1.Title, opinions map[string]float64) taste {
	sum, weight := map[feature]float64{}, map[feature]float64{}
	for _, film := range films { // in a fixed order: sums of floats depend on it
		w := opinions[film.Id]
		for _, f := range features(film) {
			sum[f] += w
			weight[f] += max(w, -w)
		}
	}
	t := taste{}
	for f := range sum {
		t[f] = sum[f] / (2 + weight[f])
	}
	return t
}

// liked returns the values of a kind of feature that the profile likes most, at most n.
func (t taste) liked(kind string, n int) []string {
	var likes []feature
	for f := range maps.Keys(t) {
		if f.kind == kind && t[f] > 0 {
			likes = append(likes, f)
		}
	}
	slices.SortFunc(likes, func(a, b feature) int {
		return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a.value, b.value))
	})
	var out []string
	for _, f := range likes[:min(n, len(likes))] {
		out = append(out, f.value)
	}
	return out
}

// score returns how much the profile is likely to like a film, 0 to 1, and the strongest reason.
func (t taste) score(film *catalogv1.Title) (float64, string) {
	total := popularity(film)
	best, strongest := 0.02, feature{}
	for _, f := range features(film) {
		part := weights[f.kind] * t[f]
		total += part
		if part > best {
			best, strongest = part, f
		}
	}
	return min(max(total/(1+0.5+0.6+0.2+0.1), 0), 1), reason(strongest)
}

// popularity is the rating of a film on IMDb, 0 to 1, moved towards the average when there are few votes.
func popularity(film *catalogv1.Title) float64 {
	const average, averageVotes = 6.3, 20_000 // counts as 20,000 more votes with the average rating
	votes := float64(film.ImdbVotes)
	return (film.GetImdbRating()*votes + average*averageVotes) / (votes + averageVotes) / 10
}

// plural is the word for the films of a genre within a sentence.
var plural = map[string]string{
	"Action": "action", "Adventure": "adventures", "Black Comedy": "black comedies", "Comedy": "comedies",
	"Concert/Performance": "concerts", "Documentary": "documentaries", "Drama": "dramas", "Horror": "horror",
	"Musical": "musicals", "Romantic Comedy": "romantic comedies", "Thriller/Suspense": "thrillers", "Western": "Westerns",
}

func reason(f feature) string {
	switch f.kind {
	case "genre":
		return "Because you like " + cmp.Or(plural[f.value], strings.ToLower(f.value))
	case "director":
		return "More by " + f.value
	case "type":
		return "More " + strings.ToLower(f.value)
	case "decade":
		return "From the " + f.value + "s"
	}
	return "Popular with many people"
}
