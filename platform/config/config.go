// Package config gives a process typed settings whose values can change while the process runs.
//
// A setting is a [Value]. [Int], [Duration], [JSON] and the other functions of this package declare it in code, with a
// default. Reading it is one atomic load. Settings are declared in a [Set]. There are two kinds of set:
//
//   - [Static] makes a [StaticSet]. It keeps its values in memory, and the program changes them with [StaticSet.Put].
//     It is for tests and for programs that have no config service.
//   - [Open] makes a [LiveSet]. It follows the config service, saves the last known good values on disk, and reports
//     to the service which revision is in use and which values the process could not use.
//
// An example:
//
//	set := config.Static(map[string]string{"search.limit": "50"})
//	limit := config.Int(set, "search.limit", 20, config.Spec{Doc: "Most hits on a page.", Min: "1", Max: "100"})
//	...
//	hits = hits[:min(len(hits), int(limit.Get()))]
//
// A value is used as a whole or not at all. If a text does not fit the declaration, the previous value stays in use and
// the set reports the problem: [Set.Entries] shows it, and a live set also sends it to the config service.
//
// Settings that exist once per circuit, route or tenant are families: see [IntFamily].
package config

import (
	"strings"

	configv1 "bijou.dev/platform/api/config/v1"
)

// Set is where a process declares and reads its settings: a [StaticSet] or a [LiveSet]. There are no other
// implementations. All methods, and the functions that declare settings, may be called from many goroutines.
type Set interface {
	// Revision returns the revision in use. In a live set it is the revision of the config service, in a static set the
	// number of changes that were made. It is 0 before the first change.
	Revision() int64
	// Entries returns all declared settings, sorted by name. A family has one entry with its default, and one for each
	// of its settings that has a value.
	Entries() []Entry

	base() *core
}

// Spec describes a setting to the person who edits it. The zero Spec has no bounds and no description.
type Spec struct {
	// Doc is one or two sentences: what the setting does, and when to change it.
	Doc string
	// Unit is the unit of a number: "ms", "bytes", "percent". Empty: none. Durations carry their unit in the value.
	Unit string
	// Min and Max are the inclusive bounds of a number or duration, as text: "1", "250ms". Empty: no bound.
	Min, Max string
}

// Entry is one setting as an operator sees it.
type Entry struct {
	// Name is the name of the setting, or the pattern of a family.
	Name string `json:"name"`
	// Value is the text in use, Default the text that the code declares.
	Value   string `json:"value"`
	Default string `json:"default"`
	// Layer is where the value is set: "default", "app", ... "override"; in a static set "default" or "static".
	Layer string `json:"layer"`
	// Scope says which app and instances the value is for, as "catalog" or "catalog eu-1". Empty for a default.
	Scope string `json:"scope,omitempty"`
	// Revision is the revision that set the value. Zero for a default.
	Revision int64 `json:"revision,omitempty"`
	// Problem says why a newer value is not in use. Empty: there is no such value.
	Problem string `json:"problem,omitempty"`
	// Doc and Unit are those of the setting's [Spec].
	Doc  string `json:"doc"`
	Unit string `json:"unit,omitempty"`
	// Type is "string", "bool", "int", "float", "duration", "enum" or "json".
	Type string `json:"type"`
}

// TypeName returns the short name of a type: "int" for TYPE_INT.
func TypeName(t configv1.Type) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), "TYPE_"))
}

// LayerName returns the short name of a layer: "zone" for LAYER_ZONE.
func LayerName(l configv1.Layer) string {
	return strings.ToLower(strings.TrimPrefix(l.String(), "LAYER_"))
}
