package version

import (
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	ours := func(v string) debug.Module { return debug.Module{Path: modulePath, Version: v} }
	dep := ours("v1.4.0")
	replaced := ours("v1.4.0")
	replaced.Replace = &debug.Module{Path: "../micro"}
	tests := []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"go install of a release", debug.BuildInfo{Main: ours("v1.2.3")}, "v1.2.3"},
		{"go install of a commit", debug.BuildInfo{Main: ours("v0.0.0-20260102030405-abcdefabcdef")}, "v0.0.0-20260102030405-abcdefabcdef"},
		{"go build in a checkout", debug.BuildInfo{Main: ours("v0.0.0-20260102030405-abcdefabcdef+dirty"), Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}}}, release},
		{"go build without version control", debug.BuildInfo{Main: ours("(devel)")}, release},
		{"go tool in another module", debug.BuildInfo{
			Main:     debug.Module{Path: "example.com/hello", Version: "v0.5.0"},
			Deps:     []*debug.Module{{Path: "example.com/x", Version: "v9.0.0"}, &dep},
			Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}},
		}, "v1.4.0"},
		{"go tool with a replaced module", debug.BuildInfo{Main: debug.Module{Path: "example.com/hello"}, Deps: []*debug.Module{&replaced}}, release},
		{"a module of another name", debug.BuildInfo{Main: debug.Module{Path: "example.com/hello", Version: "v0.5.0"}}, release},
	}
	for _, tt := range tests {
		if got := of(&tt.info); got != tt.want {
			t.Errorf("%s: version is %s, want %s", tt.name, got, tt.want)
		}
	}
}
