package cli

import (
	"runtime"
	"runtime/debug"
)

// version is stamped by the linker: -X bijou.dev/cmd/bijou/internal/cli.version=v1.2.3.
var version string

type versionCmd struct{}

// Run is `bijou version`.
func (versionCmd) Run(e *env) error {
	v := programVersion()
	if e.program.JSON {
		return e.printJSON(map[string]string{
			"version": v, "go": runtime.Version(), "os": runtime.GOOS,
			"arch": runtime.GOARCH,
		})
	}
	err := e.printf("bijou %s (%s %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return s.Value[:12]
			}
		}
	}
	return "dev"
}
