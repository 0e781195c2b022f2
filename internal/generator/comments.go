package generator

import (
	"go/doc/comment"
	"strings"
	"unicode"

	"google.golang.org/protobuf/compiler/protogen"
)

// commentLines are the lines of a .proto file's comment as Go comments have them
// behind their slashes: empty, or beginning with a space, so that no line is a
// directive to a Go tool; and without the characters that Go does not take in a
// source file.
func commentLines(c protogen.Comments) []string {
	text := strings.ToValidUTF8(string(c), string(unicode.ReplacementChar))
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == 0 || r == '\ufeff':
			return unicode.ReplacementChar
		case unicode.IsControl(r):
			return ' '
		}
		return r
	}, text)
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		line = strings.TrimRight(line, " \t")
		// The old form of a build constraint has a space; vet sees it in any line.
		line = strings.ReplaceAll(line, "+build", "+ build")
		if line != "" && line[0] != ' ' && line[0] != '\t' {
			line = " " + line
		}
		lines = append(lines, line)
	}
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// docLines are commentLines in the shape that gofmt gives to doc comments, so that
// the files need not be formatted again and again.
func docLines(c protogen.Comments) []string {
	lines := commentLines(c)
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, " ")
	}
	text := strings.Join(lines, "\n")
	if strings.TrimSpace(text) == "" {
		return nil
	}
	for range 2 { // a comment of odd shape comes to rest at the second time
		text = string(new(comment.Printer).Comment(new(comment.Parser).Parse(text)))
	}
	lines = strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if line != "" && line[0] != '\t' {
			lines[i] = " " + line
		}
	}
	return lines
}

// paragraph is lines with an empty one before them, or nothing.
func paragraph(lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	return append([]string{""}, lines...)
}
