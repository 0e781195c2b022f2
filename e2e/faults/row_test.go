package faults

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/transport"
)

// A row is the figures of one fault.
type row struct {
	fault string

	ok, failed int // idempotent calls
	down       int // those that failed while no instance could be reached
	slowest    time.Duration
	gap        time.Duration // longest time between two successes of one client

	onceOK   int // calls that may not run twice
	downOnce int // those that failed while no instance could be reached
	lost     int // those that failed on their way to what broke
	lostRan  int // of these, those that a handler has begun
	refused  int // those that failed otherwise
	twice    int

	more   int // attempts after the first, of all calls
	most   int // attempts of one call
	remark string
}

// maxTold bounds the failed calls that a test tells in full.
const maxTold = 5

// result stops the load, holds it against what must be, and makes a row of it.
func (l *load) result(t *testing.T, fault string) row {
	t.Helper()
	l.stop()
	r := row{
		fault: fault, ok: len(l.took), slowest: slices.Max(l.took), gap: l.gap,
		more: l.extra, most: l.most, remark: l.remark,
	}
	all := len(l.failed)
	l.failed = slices.DeleteFunc(l.failed, l.inOutage)
	r.down = all - len(l.failed)
	if r.failed = len(l.failed); r.failed > 0 {
		t.Errorf("%d of %d idempotent calls failed:\n%s", r.failed, r.ok+r.failed, tell(l.failed))
	}
	if len(l.saved) > 0 {
		t.Logf("%d calls were answered after an attempt was lost:\n%s", len(l.saved), tell(l.saved))
	}
	ran := readLedgers(t, l.fleet.dir)
	var unexcused []*call
	for _, c := range l.once {
		n := ran[c.id]
		switch {
		case c.err == nil:
			r.onceOK++
			if n == 0 {
				t.Errorf("%s was answered and has not run", c.id)
			}
		case l.excuse(c):
			r.lost++
			r.lostRan += min(n, 1)
		case l.inOutage(c):
			r.downOnce++
		default:
			r.refused++
			unexcused = append(unexcused, c)
		}
		if n > 1 {
			r.twice++
			t.Errorf("%s ran %d times: %s", c.id, n, c)
		}
		if n > 0 && errors.Is(c.err, transport.ErrNotStarted) {
			t.Errorf("%s has run and is said not to have started: %s", c.id, c)
		}
	}
	if r.refused > 0 {
		t.Errorf("%d of %d calls that may not run twice failed although nothing broke on their way:\n%s",
			r.refused, len(l.once), tell(unexcused))
	}
	return r
}

func tell(calls []*call) string {
	var b strings.Builder
	for i, c := range calls {
		if i == maxTold {
			fmt.Fprintf(&b, "and %d more\n", len(calls)-i)
			break
		}
		fmt.Fprintf(&b, "%s\n", c)
	}
	return b.String()
}

// table is rows in Markdown, as docs/faults.md has them.
func table(rows []row) string {
	lines := [][]string{{"fault", "idempotent", "failed", "down", "slowest", "gap",
		"once", "failed", "lost", "ran", "down", "twice", "more", "most", ""}}
	for _, r := range rows {
		if r.fault == "" { // it was not to run
			continue
		}
		lines = append(lines, []string{r.fault,
			fmt.Sprint(r.ok), fmt.Sprint(r.failed), fmt.Sprint(r.down), short(r.slowest), short(r.gap),
			fmt.Sprint(r.onceOK), fmt.Sprint(r.refused), fmt.Sprint(r.lost), fmt.Sprint(r.lostRan), fmt.Sprint(r.downOnce), fmt.Sprint(r.twice),
			fmt.Sprint(r.more), fmt.Sprint(r.most), r.remark})
	}
	widths := make([]int, len(lines[0]))
	for _, cells := range lines {
		for i, c := range cells {
			widths[i] = max(widths[i], len(c), len("--:"))
		}
	}
	var b strings.Builder
	for n, cells := range lines {
		for i, c := range cells {
			if i == 0 || i == len(cells)-1 {
				fmt.Fprintf(&b, "| %-*s ", widths[i], c)
			} else {
				fmt.Fprintf(&b, "| %*s ", widths[i], c)
			}
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, w := range widths {
			rule := strings.Repeat("-", w)
			if i > 0 && i < len(widths)-1 {
				rule = rule[1:] + ":"
			}
			fmt.Fprintf(&b, "| %s ", rule)
		}
		b.WriteString("|\n")
	}
	return b.String()
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
