// Package platform is the map of what a service imports.
package platform
