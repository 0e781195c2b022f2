// Package templates is what generated code looks like. The templates hold no
// decisions: they range over names, comments and types that internal/generator has
// resolved, and the functions context, client, rpc, server and status name what
// they are given in the package of that name.
package templates

import "embed"

// FS holds the templates; file.go.tmpl is the one that begins a file.
//
//go:embed *.go.tmpl
var FS embed.FS
