package service

import "runtime/debug"

// version is stamped by the linker: -X bijou.dev/platform/service.version=v1.2.3.
var version string

// Version returns the version that the build stamped, else the VCS revision, else "dev".
func Version() string {
	if version != "" {
		return version
	}
	if rev := setting("vcs.revision"); len(rev) >= 12 {
		return rev[:12]
	}
	return "dev"
}

func setting(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
