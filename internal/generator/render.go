package generator

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"runtime"
	"sync"
	"sync/atomic"
	"text/template"

	"github.com/protomicro/micro/templates"
)

// parsed are the templates, with functions that are replaced for each file.
var parsed = sync.OnceValues(func() (*template.Template, error) {
	funcs := make(template.FuncMap)
	for pkg := range imported {
		funcs[pkg] = func(string) string { return "" }
	}
	return template.New("").Funcs(funcs).ParseFS(templates.FS, "*.go.tmpl")
})

// renderAll is the text of each output.
func renderAll(outputs []*output) ([][]byte, error) {
	texts := make([][]byte, len(outputs))
	errs := make([]error, len(outputs))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(outputs)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(outputs); i = int(next.Add(1)) - 1 {
				texts[i], errs[i] = render(outputs[i])
			}
		})
	}
	wg.Wait()
	return texts, errors.Join(errs...)
}

// render executes the templates for out. The packages that they name are imported.
func render(out *output) ([]byte, error) {
	t, err := parsed()
	if err != nil {
		return nil, err
	}
	if t, err = t.Clone(); err != nil {
		return nil, err
	}
	funcs := make(template.FuncMap)
	for pkg, path := range imported {
		funcs[pkg] = func(name string) string {
			out.imports.used[path] = true
			return pkg + "." + name
		}
	}
	t.Funcs(funcs)
	var body, file bytes.Buffer
	if err := t.ExecuteTemplate(&body, "body.go.tmpl", out); err != nil {
		return nil, err
	}
	// The head of the file says what the rest of it imports.
	err = t.ExecuteTemplate(&file, "file.go.tmpl", struct {
		*output
		Imports func() []importLine
		Body    string
	}{out, out.imports.lines, body.String()})
	if err != nil {
		return nil, err
	}
	text := oneBlankLine(file.Bytes())
	if !out.commented {
		return text, nil // the templates write it as gofmt does
	}
	// With comments it is so as a rule. Where it is not, it may come to rest only when
	// formatted once more.
	for range 3 {
		formatted, err := format.Source(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", out.filename, err)
		}
		if bytes.Equal(text, formatted) {
			break
		}
		text = formatted
	}
	return text, nil
}

// oneBlankLine leaves one empty line where there are many and none before a closing
// brace or at the end, which is where the templates leave too many.
func oneBlankLine(text []byte) []byte {
	out := make([]byte, 0, len(text))
	empty := 0
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) == 0 {
			empty++
			continue
		}
		if empty > 0 && len(out) > 0 && line[0] != '}' {
			out = append(out, '\n')
		}
		empty = 0
		out = append(out, line...)
	}
	return out
}
