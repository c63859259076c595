package recommendations

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// feature is something that films have in common.
type feature struct {
	kind  string // genre, director, type or decade
	value string
}

// matters is how much each kind of feature may add to a score, next to 1 for public appeal.
var matters = map[string]float64{"genre": 0.5, "director": 0.6, "type": 0.2, "decade": 0.1}

// taste is what a profile thinks of features: -1 is the worst, 1 the best, 0 is nothing.
type taste map[feature]float64

func features(t *catalogv1.Title) []feature {
	decade := ""
	if t.Year > 0 {
		decade = fmt.Sprintf("%d", t.Year/10*10)
	}
	all := []feature{{"genre", t.Genre}, {"director", t.Director}, {"type", t.CreativeType}, {"decade", decade}}
	return slices.DeleteFunc(all, func(f feature) bool { return f.value == "" })
}

// learn averages what was said about films into what is thought of their features. The 2 in the divisor stands for two
// films about which nothing was said: one opinion is not yet a taste.
func learn(films []*catalogv1.Title, said map[string]float64) taste {
	sum, weight := map[feature]float64{}, map[feature]float64{}
	for _, film := range films { // in a fixed order: sums of floats depend on it
		w := said[film.Id]
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

// liked returns the values of a kind that the profile likes most, at most n.
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

// score returns how much the profile may like a film, 0 to 1, and the strongest reason.
func (t taste) score(film *catalogv1.Title) (float64, string) {
	total := appeal(film)
	best, why := 0.02, feature{}
	for _, f := range features(film) {
		adds := matters[f.kind] * t[f]
		total += adds
		if adds > best {
			best, why = adds, f
		}
	}
	return min(max(total/(1+0.5+0.6+0.2+0.1), 0), 1), reason(why)
}

// appeal is what the public thinks of a film, 0 to 1, drawn towards the middle when few voted.
func appeal(film *catalogv1.Title) float64 {
	const middle, doubt = 6.3, 20_000
	votes := float64(film.ImdbVotes)
	return (film.GetImdbRating()*votes + middle*doubt) / (votes + doubt) / 10
}

// plural names the films of a genre in a sentence.
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
	return "Loved by many"
}
