package config

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	settings "bijou.dev/platform/config"
	"bijou.dev/platform/text"
)

// nearest returns up to three of the known names that name may be a misspelling of, the most similar first.
func nearest(name string, known iter.Seq[string]) []string {
	type similar struct {
		name     string
		distance int
	}
	most := 2 + len(name)/8
	var found []similar
	for k := range known {
		if len(k) > len(name)+most || len(name) > len(k)+most {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= most {
			found = append(found, similar{k, d})
		}
	}
	slices.SortFunc(found, func(a, b similar) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, n := range found[:min(3, len(found))] {
		names = append(names, n.name)
	}
	return names
}

// distance returns how many bytes must be inserted, deleted or replaced to make b from a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// expand returns the name of a property or, for a family, its pattern with the key taken from name instead of the star.
func expand(p *settings.Property, name string) string {
	if !p.Pattern() {
		return p.Name()
	}
	pattern, given := strings.Split(p.Name(), "."), strings.Split(name, ".")
	star := slices.Index(pattern, "*")
	after := len(pattern) - star - 1
	if len(given) <= star+after {
		return p.Name()
	}
	return strings.Join(slices.Concat(pattern[:star], given[star:len(given)-after], pattern[star+1:]), ".")
}

// shorten bounds text that is quoted in messages.
func shorten(s string) string { return text.Bound(s, 200) }
