package config

import (
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
)

// Applies reports whether an instance sees the values that are set at a scope. The scope must be for its app or for
// every app. Scopes of the layers that have a selector must name the environment, region, zone or version of the
// instance, or the instance itself. A layer that is not known applies to no instance.
func Applies(scope *configv1.Scope, id *configv1.Identity) bool {
	if app := scope.GetApp(); app != "" && app != id.GetApp() {
		return false
	}
	switch scope.GetLayer() {
	case configv1.Layer_LAYER_APP, configv1.Layer_LAYER_OVERRIDE:
		return scope.GetSelector() == ""
	case configv1.Layer_LAYER_ENVIRONMENT:
		return selects(scope, id.GetEnvironment())
	case configv1.Layer_LAYER_REGION:
		return selects(scope, id.GetRegion())
	case configv1.Layer_LAYER_ZONE:
		return selects(scope, id.GetZone())
	case configv1.Layer_LAYER_VERSION:
		return selects(scope, id.GetVersion())
	case configv1.Layer_LAYER_INSTANCE:
		return selects(scope, id.GetInstance())
	}
	return false
}

func selects(scope *configv1.Scope, name string) bool {
	return name != "" && scope.GetSelector() == name
}

// Expired reports whether a value was set for a limited time and that time has passed. Such a value must not be used,
// even if it is still stored.
func Expired(v *configv1.Value, now time.Time) bool {
	return v.GetExpires() != nil && !v.GetExpires().AsTime().After(now)
}
