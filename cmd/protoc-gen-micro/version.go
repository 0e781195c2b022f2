package main

import (
	"runtime/debug"
	"strings"
)

// version is the release that this source tree leads to.
const version = "v0.1.0"

const modulePath = "github.com/protomicro/micro"

// installedVersion is the version that the go command chose, where it chose one.
func installedVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	module := &info.Main
	for _, dep := range info.Deps {
		if dep.Path == modulePath {
			module = dep
		}
	}
	for _, s := range info.Settings {
		if module == &info.Main && strings.HasPrefix(s.Key, "vcs") {
			return version // built in a checkout, whose version is made up
		}
	}
	if module.Path != modulePath || module.Replace != nil || module.Version == "" || module.Version == "(devel)" {
		return version
	}
	return module.Version
}
