package callctx

import "context"

type elsewhereKey struct{}

// WithElsewhere marks what is done under ctx as having another way to its end: a
// transport need not wait for a connection that it has lost.
func WithElsewhere(ctx context.Context) context.Context {
	return context.WithValue(ctx, elsewhereKey{}, true)
}

// Elsewhere reports whether ctx is so marked.
func Elsewhere(ctx context.Context) bool { return ctx.Value(elsewhereKey{}) != nil }
