package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The program tells what README.md says it does, and leaves nothing behind.
func TestStory(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	want := toldInReadme(t)
	temp := emptyTemp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	if err := run(ctx, &out); err != nil {
		t.Fatalf("%v; it said:\n%s", err, &out)
	}
	if got := strings.TrimSpace(out.String()); got != want {
		t.Errorf("it said:\n%s\nand README.md has:\n%s", got, want)
	}
	checkEmpty(t, temp)
}

// Interrupted, it says so and leaves nothing behind either.
func TestInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	temp := emptyTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, new(bytes.Buffer)); err == nil {
		t.Error("it succeeded")
	}
	checkEmpty(t, temp)
}

// What a story expects and what was done are compared: the program's exit code means
// something.
func TestStoryIsTrue(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := newJournal()
	s := story{out: new(bytes.Buffer), journal: j, told: make(map[string]int)}
	j.write("billing ada", "order 2")
	j.write("billing ada", "order 1")
	if err := s.expect(ctx, "billing ada", "order 1", "order 2"); err == nil {
		t.Error("another order is as good")
	}
	j.write("shipping", "order 2")
	j.write("shipping", "order 1")
	j.write("shipping", "order 3")
	if err := s.expect(ctx, "shipping", "order 1", "order 2", "order 4"); err == nil {
		t.Error("another thing is as good")
	}
	if err := s.nothingElse(); err != nil {
		t.Error(err)
	}
	j.write("shipping", "order 3")
	if err := s.nothingElse(); err == nil {
		t.Error("a thing done twice is as good as once")
	}
	cancel()
	if err := s.expect(ctx, "shipping", "order 3", "order 4"); err == nil {
		t.Error("a thing that is not done is as good")
	}
}

// toldInReadme is the first block of text in README.md.
func toldInReadme(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```text\n")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README.md has no block of text")
	}
	return strings.TrimSpace(text)
}

func emptyTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("%s is left", entry.Name())
	}
}
