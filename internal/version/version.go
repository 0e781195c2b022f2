// Package version is the version that the programs of this project say they are.
package version

import (
	"runtime/debug"
	"strings"
)

// release is the release that this source tree leads to.
const release = "v0.1.0"

const modulePath = "github.com/protomicro/micro"

// Installed is the version that the go command chose, where it chose one.
func Installed() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	return of(info)
}

func of(info *debug.BuildInfo) string {
	module := &info.Main
	for _, dep := range info.Deps {
		if dep.Path == modulePath {
			module = dep
		}
	}
	for _, s := range info.Settings {
		if module == &info.Main && strings.HasPrefix(s.Key, "vcs") {
			return release // built in a checkout, whose version is made up
		}
	}
	if module.Path != modulePath || module.Replace != nil || module.Version == "" || module.Version == "(devel)" {
		return release
	}
	return module.Version
}
