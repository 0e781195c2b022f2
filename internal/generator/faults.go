package generator

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// faults collects what is wrong with a request.
type faults struct{ list []fault }

type fault struct {
	place
	what, remedy string
}

// A place is where something is declared. Lines and columns count from one; they
// are zero where the compiler passed no source information.
type place struct {
	file         string
	line, column int
}

func placeOf(d protoreflect.Descriptor) place {
	p := place{file: d.ParentFile().Path()}
	if loc := d.ParentFile().SourceLocations().ByDescriptor(d); len(loc.Path) > 0 {
		p.line, p.column = loc.StartLine+1, loc.StartColumn+1
	}
	return p
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.column)
}

// add notes a fault of what d declares; d is nil for one of the request itself.
func (fs *faults) add(d protoreflect.Descriptor, what, remedy string) {
	var p place
	if d != nil {
		p = placeOf(d)
	}
	fs.addAt(p, what, remedy)
}

func (fs *faults) addAt(p place, what, remedy string) {
	fs.list = append(fs.list, fault{p, what, remedy})
}

// oneLine is text without line ends and other characters that do not print, which paths
// and options may have.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// err is all faults in the order of their places, one a line, or nil.
func (fs *faults) err() error {
	if len(fs.list) == 0 {
		return nil
	}
	slices.SortStableFunc(fs.list, func(a, b fault) int {
		return cmp.Or(
			cmp.Compare(a.file, b.file),
			cmp.Compare(a.line, b.line),
			cmp.Compare(a.column, b.column))
	})
	var lines []string
	for _, f := range fs.list {
		line := f.what + " (" + f.remedy + ")"
		if f.file != "" {
			line = f.place.String() + ": " + line
		}
		lines = append(lines, oneLine(line))
	}
	return errors.New(strings.Join(lines, "\n"))
}
