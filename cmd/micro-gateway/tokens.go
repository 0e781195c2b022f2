package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"

	"github.com/protomicro/micro/runtime/gateway"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/status"
)

// Tokens are those that let a caller in, by their hashes: so the time that it takes to
// look for one tells nothing of them.
type tokens map[[sha256.Size]byte]bool

// readTokens reads a file with one on each line, but for empty ones and those that begin
// with "#".
func readTokens(file string) (tokens, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ts := make(tokens)
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.ContainsAny(line, " \t") {
			return nil, fmt.Errorf("%s: a line has more than a token", file)
		}
		ts[sha256.Sum256([]byte(line))] = true
	}
	if len(ts) == 0 {
		return nil, fmt.Errorf("%s has no token", file)
	}
	return ts, nil
}

// check lets a call in that has one of the tokens, and what asks for the gateway's
// health.
func (ts tokens) check(ctx context.Context, req *gateway.Request) (context.Context, error) {
	if req.Spec.Service == health.ServiceName {
		return ctx, nil
	}
	scheme, token, _ := strings.Cut(req.Metadata.Get("authorization"), " ")
	switch {
	case scheme == "":
		return nil, status.New(status.Unauthenticated, "the call has no token (send the header authorization: Bearer TOKEN)")
	case !strings.EqualFold(scheme, "bearer"):
		return nil, status.New(status.Unauthenticated, "the call has no bearer token")
	case !ts[sha256.Sum256([]byte(strings.TrimSpace(token)))]:
		return nil, status.New(status.Unauthenticated, "the token is not valid")
	}
	return ctx, nil
}

// authenticate is what asks who calls, or nil for nothing.
func (s *settings) authenticate() (func(context.Context, *gateway.Request) (context.Context, error), error) {
	if s.tokenFile == "" {
		return nil, nil
	}
	ts, err := readTokens(s.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("-token-file: %w", err)
	}
	return ts.check, nil
}
