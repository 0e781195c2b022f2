// Package templates is what generated code looks like. The templates hold no
// decisions: they range over names, comments and types that internal/generator has
// resolved, and the functions named like packages (context, client, rpc and so on)
// name what they are given in that package.
package templates

import "embed"

// FS holds the templates; file.go.tmpl is a whole file, around what body.go.tmpl makes.
//
//go:embed *.go.tmpl
var FS embed.FS
