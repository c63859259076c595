package config

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	settings "bijou.dev/platform/config"
)

// nearest returns up to three of the known names that look like a slip of the pen, the nearest first.
func nearest(name string, known iter.Seq[string]) []string {
	type near struct {
		name     string
		distance int
	}
	most := 2 + len(name)/8
	var found []near
	for k := range known {
		if len(k) > len(name)+most || len(name) > len(k)+most {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= most {
			found = append(found, near{k, d})
		}
	}
	slices.SortFunc(found, func(a, b near) int { return cmp.Or(a.distance-b.distance, cmp.Compare(a.name, b.name)) })
	var names []string
	for _, n := range found[:min(3, len(found))] {
		names = append(names, n.name)
	}
	return names
}

// distance counts the bytes to insert, delete or replace.
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

// inPlace returns what name would be called if it belonged to the property: of a family, with the segments of name where
// the star is.
func inPlace(p *settings.Property, name string) string {
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
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
