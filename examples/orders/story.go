package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// A journal is what the services have done. It and the story are what a system of your
// own does not need.
type journal struct {
	mu      sync.Mutex
	lines   map[string][]string
	changed chan struct{} // closed at the next line
}

func newJournal() *journal {
	return &journal{lines: make(map[string][]string), changed: make(chan struct{})}
}

// write notes that who has done something.
func (j *journal) write(who, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines[who] = append(j.lines[who], fmt.Sprintf(format, args...))
	close(j.changed)
	j.changed = make(chan struct{})
}

// read returns what who has done after the first skip things, when that is n things.
func (j *journal) read(ctx context.Context, who string, skip, n int) ([]string, error) {
	for {
		j.mu.Lock()
		lines, changed := slices.Clone(j.lines[who]), j.changed
		j.mu.Unlock()
		if len(lines) >= skip+n {
			return lines[skip:], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has done %q and no more: %w", who, lines, ctx.Err())
		}
	}
}

// A story is told as it happens, and is true.
type story struct {
	out     io.Writer
	journal *journal
	told    map[string]int // how many lines of each service
}

func (s story) step(n int, what string) { fmt.Fprintf(s.out, "\n%d. %s\n", n, what) }

func (s story) say(format string, args ...any) { fmt.Fprintf(s.out, "   "+format+"\n", args...) }

// expect waits for what a service does next, and tells it. Where handlers run at the
// same time, what they do is put into an order; that of one customer's bills is told as
// it was.
func (s story) expect(ctx context.Context, who string, want ...string) error {
	got, err := s.journal.read(ctx, who, s.told[who], len(want))
	if err != nil {
		return err
	}
	s.told[who] += len(got)
	service, customer, _ := strings.Cut(who, " ")
	if customer == "" {
		slices.Sort(got)
	}
	for _, line := range got {
		s.say("%s: %s", service, line)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s was to do %q", who, want)
	}
	return nil
}

// nothingElse fails where something was done that has not been told.
func (s story) nothingElse() error {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	for who, lines := range s.journal.lines {
		if untold := lines[s.told[who]:]; len(untold) > 0 {
			return fmt.Errorf("%s has also done %q", who, untold)
		}
	}
	return nil
}
