package generator

import (
	"path"
	"strings"
)

// neutral is a file name, without its extensions, that the go command builds on every
// system: name itself, or one beside it.
func neutral(name string) string {
	if constraint(name+".go") == ignored {
		name = "proto" + name
	}
	if constraint(name+".go") != "" {
		name += "_proto"
	}
	return name
}

const ignored = "never"

// constraint says when the go command builds files of this name: always (""), on the
// system or processor it returns, or never. The go command looks at what is before
// the first dot, so greet_windows.pb.go is as constrained as greet_windows.go.
func constraint(name string) string {
	if name != "" && (name[0] == '_' || name[0] == '.') {
		return ignored
	}
	name, _, _ = strings.Cut(name, ".")
	_, name, ok := strings.Cut(name, "_")
	if !ok {
		return ""
	}
	words := strings.Split(name, "_")
	if last := len(words) - 1; words[last] == "test" {
		words = words[:last]
	}
	switch n := len(words); {
	case n >= 2 && systems[words[n-2]] && processors[words[n-1]]:
		return words[n-2] + "/" + words[n-1]
	case n >= 1 && (systems[words[n-1]] || processors[words[n-1]]):
		return words[n-1]
	}
	return ""
}

// stem is the name of a .proto file as protoc-gen-go begins its file's with it.
func stem(protoFile string) string {
	base := path.Base(protoFile)
	if ext := path.Ext(base); ext == ".proto" || ext == ".protodevel" {
		base = strings.TrimSuffix(base, ext)
	}
	return base
}

// What the go command takes for a system or a processor in a file's name, those
// included that it reserves or no longer builds for.
var (
	systems = set("aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd " +
		"plan9 solaris wasip1 windows zos")
	processors = set("386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 " +
		"mips64p32le ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm")
)

func set(words string) map[string]bool {
	s := make(map[string]bool)
	for word := range strings.FieldsSeq(words) {
		s[word] = true
	}
	return s
}
