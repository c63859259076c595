package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/text"
)

const maxTTL = 366 * 24 * time.Hour

// checkPublish checks what can be said of a request without looking at the settings.
func checkPublish(req *configv1.PublishRequest, maxChanges int) error {
	var bad errs.Violations
	checkNotes(&bad, req.GetAuthor(), req.GetReason())
	if n := len(req.GetChanges()); n == 0 || n > maxChanges {
		bad.Addf("changes", "must be 1 to %d, are %d", maxChanges, n)
	}
	return bad.Err("publishing %s", subject(req.GetChanges()))
}

// checkNotes checks who makes a change and why. The history shows both as one line, so they must be one.
func checkNotes(bad *errs.Violations, author, reason string) {
	if err := text.CheckNote(author, text.MaxAuthor); err != nil {
		bad.Add("author", err.Error())
	}
	if err := text.CheckNote(reason, text.MaxReason); err != nil {
		bad.Add("reason", err.Error())
	}
}

// subject names what a request changes, for error texts: one setting, or how many.
func subject(list []*configv1.Change) string {
	if len(list) == 1 && settings.CheckName(list[0].GetName()) == nil {
		return list[0].GetName()
	}
	return fmt.Sprintf("%d changes", len(list))
}

// checkChangesLocked checks all changes of a request and returns all violations in one error.
func (s *Server) checkChangesLocked(list []*configv1.Change) error {
	var bad errs.Violations
	first := map[string]int{} // key of a value -> index of the change that has it
	for i, c := range list {
		at := bad.At(fmt.Sprintf("changes[%d]", i))
		key := valueKey(c.GetName(), c.GetScope())
		if j, twice := first[key]; twice {
			at.Addf("name", "must not be set twice at one scope, is in changes[%d] too", j)
			continue
		}
		first[key] = i
		if c.GetRemove() {
			s.checkRemovalLocked(at, c)
		} else {
			s.checkSettingLocked(at, c)
		}
	}
	return bad.Err("publishing %s", subject(list))
}

// checkRemovalLocked checks a change that removes a value. It may be one that could not be set today: its app no longer
// declares it, or the rules for names were wider.
func (s *Server) checkRemovalLocked(bad *errs.Violations, c *configv1.Change) {
	if c.GetValue() != "" {
		bad.Add("value", "must be empty when the value is removed")
	}
	if c.GetTtl().AsDuration() != 0 {
		bad.Add("ttl", "must be empty when the value is removed")
	}
	if s.state.values[c.GetName()][valueKey(c.GetName(), c.GetScope())] == nil {
		bad.Add("name", "has no value at this scope that could be removed")
	}
}

// checkSettingLocked checks a change that sets a value: first its form, then whether the value fits.
func (s *Server) checkSettingLocked(bad *errs.Violations, c *configv1.Change) {
	checkName(bad, c.GetName())
	checkScope(bad, c.GetScope())
	checkTTL(bad, c)
	if bad.Len() > 0 {
		return
	}
	if n := len(c.GetValue()); n > s.opts.MaxValueBytes {
		bad.Addf("value", "must have at most %d bytes, has %d", s.opts.MaxValueBytes, n)
		return
	}
	declared := false
	concerned := s.state.concernedLocked(c.GetScope().GetApp())
	for _, name := range slices.Sorted(maps.Keys(concerned)) {
		p := concerned[name].property(c.GetName())
		if p == nil {
			continue
		}
		declared = true
		if err := p.Check(c.GetValue()); err != nil {
			bad.Addf("value", "%s (declared by %s)", err, name)
			return
		}
	}
	if !declared {
		bad.Add("name", s.state.unknownLocked(c.GetName(), c.GetScope().GetApp()))
	}
}

func checkName(bad *errs.Violations, name string) {
	if strings.Contains(name, "*") {
		bad.Add("name", "must be a name; a pattern is declared, not set")
	} else if err := settings.CheckName(name); err != nil {
		bad.Add("name", err.Error())
	}
}

func checkScope(bad *errs.Violations, scope *configv1.Scope) {
	layer, selector := scope.GetLayer(), scope.GetSelector()
	switch {
	case layer == configv1.Layer_LAYER_DEFAULT:
		bad.Add("scope.layer", "must not be the default, which the code declares")
		return
	case layer < configv1.Layer_LAYER_APP || layer > configv1.Layer_LAYER_OVERRIDE:
		bad.Add("scope.layer",
			"must be LAYER_APP, _ENVIRONMENT, _REGION, _ZONE, _VERSION, _INSTANCE or _OVERRIDE")
		return
	}
	if scope.GetApp() != "" {
		if err := names.Service.Check(scope.GetApp()); err != nil {
			bad.Add("scope.app", err.Error())
		}
	}
	hasSelector := layer != configv1.Layer_LAYER_APP && layer != configv1.Layer_LAYER_OVERRIDE
	switch {
	case hasSelector && selector == "":
		bad.Addf("scope.selector", "must say which %s", settings.LayerName(layer))
	case !hasSelector && selector != "":
		bad.Addf("scope.selector", "must be empty for the layer %s, is %.40q", settings.LayerName(layer), selector)
	case hasSelector:
		if err := names.ID.Check(selector); err != nil {
			bad.Add("scope.selector", err.Error())
		}
	}
}

func checkTTL(bad *errs.Violations, c *configv1.Change) {
	if c.GetTtl() == nil || (c.GetTtl().GetSeconds() == 0 && c.GetTtl().GetNanos() == 0) {
		return
	}
	ttl := c.GetTtl().AsDuration()
	switch {
	case c.GetScope().GetLayer() != configv1.Layer_LAYER_OVERRIDE:
		bad.Add("ttl", "must be empty: only an override expires")
	case c.GetTtl().CheckValid() != nil || ttl < time.Second || ttl > maxTTL:
		bad.Addf("ttl", "must be 1s to %v", maxTTL)
	}
}

// concernedLocked returns the apps that a value for app is for: that one or, if app is empty, all.
func (s *state) concernedLocked(name string) map[string]*app {
	if name == "" {
		return s.apps
	}
	if a := s.apps[name]; a != nil {
		return map[string]*app{name: a}
	}
	return nil
}

// unknownLocked says that no app declares a setting, and which similar names are declared.
func (s *state) unknownLocked(name, appName string) string {
	concerned := s.concernedLocked(appName)
	if appName != "" && len(concerned) == 0 {
		similar := nearest(appName, maps.Keys(s.apps))
		return fmt.Sprintf("is not declared: no app %q has declared anything%s", appName, didYouMean(similar))
	}
	known := map[string]bool{}
	for _, a := range concerned {
		for _, p := range a.all() {
			known[expand(p, name)] = true
		}
	}
	by := "any app"
	if appName != "" {
		by = appName
	}
	return fmt.Sprintf("is not declared by %s%s", by, didYouMean(nearest(name, maps.Keys(known))))
}

func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}
