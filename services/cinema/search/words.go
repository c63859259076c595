package search

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/blevesearch/vellum"
	"github.com/blevesearch/vellum/levenshtein"
	"golang.org/x/text/unicode/norm"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// posting is a film that has a word. The weight depends on the field: the title counts most.
type posting struct {
	film   int32
	weight float64
}

// words is the inverted index.
type words struct {
	dictionary *vellum.FST // word -> index into postings
	postings   [][]posting
	films      int
	typos      [3]*levenshtein.LevenshteinAutomatonBuilder // by the number of typos allowed; [0] is unused
}

// index returns the index of the words in the title, director and genre of each film.
func index(titles []*catalogv1.Title) (*words, error) {
	found := map[string][]posting{}
	for i, t := range titles {
		weights := map[string]float64{}
		for _, field := range []struct {
			text   string
			weight float64
		}{{t.Name, 1}, {t.Director, 0.7}, {t.Genre, 0.3}} {
			for _, w := range split(field.text) {
				weights[w] = max(weights[w], field.weight)
			}
		}
		for w, weight := range weights {
			found[w] = append(found[w], posting{int32(i), weight})
		}
	}
	x := &words{films: len(titles)}
	var buf bytes.Buffer
	b, err := vellum.New(&buf, nil)
	if err != nil {
		return nil, fmt.Errorf("building the dictionary: %w", err)
	}
	for _, w := range slices.Sorted(maps.Keys(found)) {
		if err := b.Insert([]byte(w), uint64(len(x.postings))); err != nil {
			return nil, fmt.Errorf("adding %q to the dictionary: %w", w, err)
		}
		x.postings = append(x.postings, found[w])
	}
	if err := b.Close(); err != nil {
		return nil, fmt.Errorf("finishing the dictionary: %w", err)
	}
	if x.dictionary, err = vellum.Load(buf.Bytes()); err != nil {
		return nil, fmt.Errorf("loading the dictionary: %w", err)
	}
	for n := 1; n < len(x.typos); n++ {
		if x.typos[n], err = levenshtein.NewLevenshteinAutomatonBuilder(uint8(n), true); err != nil {
			return nil, fmt.Errorf("preparing for %d typos: %w", n, err)
		}
	}
	return x, nil
}

// split returns the words of s in lower case, without accents, apostrophes and punctuation. It returns at most 10
// words, and leaves out those of more than 32 bytes.
func split(s string) []string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Mn, r), r == '\'', r == '’':
			return -1
		case unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return ' '
	}, norm.NFKD.String(s))
	all := strings.Fields(s)
	all = slices.DeleteFunc(all, func(w string) bool { return len(w) > 32 })
	return all[:min(len(all), 10)]
}

// find returns the films with the word token; if prefix is true, also those with a word that begins with it; if typos
// is true, also those with a similar word.
func (x *words) find(token string, prefix, typos bool) (map[int32]float64, error) {
	scores := map[int32]float64{}
	if n, ok, err := x.dictionary.Get([]byte(token)); err != nil {
		return nil, fmt.Errorf("looking up %q: %w", token, err)
	} else if ok {
		x.add(scores, n, 1)
	}
	if prefix {
		it, err := x.dictionary.Iterator([]byte(token), after(token))
		if err := x.walk(scores, it, err, func() float64 { return 0.7 }); err != nil {
			return nil, err
		}
	}
	if n := allowed(token); typos && n > 0 {
		dfa, err := x.typos[n].BuildDfa(token, uint8(n))
		if err != nil {
			return nil, fmt.Errorf("allowing %d typos in %q: %w", n, token, err)
		}
		it, err := x.dictionary.Search(dfa, nil, nil)
		quality := func() float64 {
			word, _ := it.Current()
			_, distance := dfa.MatchAndDistance(string(word))
			return 0.6 / float64(1+distance)
		}
		if err := x.walk(scores, it, err, quality); err != nil {
			return nil, err
		}
	}
	return scores, nil
}

// walk adds the words of an iterator. err is the error of opening it.
func (x *words) walk(scores map[int32]float64, it *vellum.FSTIterator, err error, quality func() float64) error {
	for err == nil {
		_, n := it.Current()
		x.add(scores, n, quality())
		err = it.Next()
	}
	if errors.Is(err, vellum.ErrIteratorDone) {
		return nil
	}
	return fmt.Errorf("walking the dictionary: %w", err)
}

// add adds a word to the scores of its films. Rare words count more. Of several matching words, the best one counts.
func (x *words) add(scores map[int32]float64, word uint64, quality float64) {
	list := x.postings[word]
	rarity := math.Log(1 + float64(x.films)/float64(len(list)))
	for _, p := range list {
		scores[p.film] = max(scores[p.film], rarity*p.weight*quality)
	}
}

// allowed is how many typos a token may have. Short words may have fewer, because they are similar to many words.
func allowed(token string) int {
	switch n := utf8.RuneCountInString(token); {
	case n < 3:
		return 0
	case n < 7:
		return 1
	}
	return 2
}

// after returns the first key after all keys that begin with prefix.
func after(prefix string) []byte {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return nil
}
