package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A column of a table. One that is empty in all rows is left out.
type column struct {
	head string // two lines
	cell func(Result) string
}

func columns(unit string) []column {
	return []column{
		{"|" + unit + "/s", func(r Result) string { return rate(r.Median.Rate) }},
		{"of|nats.go", func(r Result) string { return figure(r.OfBaseline) }},
		{"p50|µs", func(r Result) string { return figure(r.Median.P50) }},
		{"p99|µs", func(r Result) string { return figure(r.Median.P99) }},
		{"p99.9|µs", func(r Result) string { return figure(r.Median.P999) }},
		{"CPU µs|client", func(r Result) string { return figure(r.Median.ClientCPU) }},
		{"|server", func(r Result) string { return figure(r.Median.ServerCPU) }},
		{"|NATS", func(r Result) string { return figure(r.Median.NATSCPU) }},
		{"allocs|client", func(r Result) string { return figure(r.Median.ClientAllocs) }},
		{"|server", func(r Result) string { return figure(r.Median.ServerAllocs) }},
		{"alloc. kB|client", func(r Result) string { return figure(r.Median.ClientBytes / 1e3) }},
		{"|server", func(r Result) string { return figure(r.Median.ServerBytes / 1e3) }},
		{"RSS MB|client", func(r Result) string { return figure(float64(r.Client.RSS) / 1e6) }},
		{"|server", func(r Result) string { return ofServer(r, func(m Memory) float64 { return float64(m.RSS) / 1e6 }) }},
		{"live MB|client", func(r Result) string { return figure(float64(r.Client.Live) / 1e6) }},
		{"|server", func(r Result) string { return ofServer(r, func(m Memory) float64 { return float64(m.Live) / 1e6 }) }},
		{"kB/stream|client", func(r Result) string { return figure(r.Client.PerStream / 1e3) }},
		{"|server", func(r Result) string { return ofServer(r, func(m Memory) float64 { return m.PerStream / 1e3 }) }},
	}
}

func ofServer(r Result, f func(Memory) float64) string {
	if r.Server == nil {
		return ""
	}
	return figure(f(*r.Server))
}

// Table writes the results of one cell, a line for each peer.
func Table(w io.Writer, results []Result) error {
	if len(results) == 0 {
		return nil
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s: %s\n", Title(results[0]), results[0].About)
	rows := [][]string{{""}, {""}}
	for _, r := range results {
		rows = append(rows, []string{r.Peer})
	}
	for _, c := range columns(results[0].Unit) {
		top, bottom, _ := strings.Cut(c.head, "|")
		cells, found := cellsOf(c, results)
		if !found {
			continue
		}
		rows[0], rows[1] = append(rows[0], top), append(rows[1], bottom)
		for i := range results {
			rows[i+2] = append(rows[i+2], cells[i])
		}
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for i, row := range rows {
		if i >= 2 && results[i-2].Error != "" {
			fmt.Fprintf(&out, "%-*s  no figures: %s\n", widths[0], row[0], oneLine(results[i-2].Error))
			continue
		}
		line := fmt.Sprintf("%-*s", widths[0], row[0])
		for j := 1; j < len(row); j++ {
			line += fmt.Sprintf("  %*s", widths[j], row[j])
		}
		out.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// cellsOf are a column's; found is whether there is anything in them.
func cellsOf(c column, results []Result) (cells []string, found bool) {
	cells = make([]string, len(results))
	for i, r := range results {
		if r.Error == "" {
			cells[i] = c.cell(r)
			found = found || cells[i] != ""
		}
	}
	return cells, found
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Title names the cell of a result.
func Title(r Result) string {
	parts := []string{r.Workload}
	for _, p := range []struct {
		n    int
		text string
	}{
		{r.Callers, plural(r.Callers, "caller")}, {r.Services, plural(r.Services, "service")},
		{r.Instances, plural(r.Instances, "instance")}, {r.Streams, plural(r.Streams, "open stream")},
	} {
		if p.n > 0 {
			parts = append(parts, p.text)
		}
	}
	if r.Payload > 0 {
		parts = append(parts[:1], append([]string{Size(r.Payload)}, parts[1:]...)...)
	}
	return strings.Join(parts, ", ")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return thousands(n) + " " + what
}

// Size is a number of bytes as people write it.
func Size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + " MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + " KiB"
	}
	return strconv.Itoa(n) + " B"
}

// thousands sets commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func rate(x float64) string {
	if x == 0 {
		return ""
	}
	if x < 100 {
		return figure(x)
	}
	return thousands(int(math.Round(x)))
}

// figure is a number with three digits that say something; empty for what was not
// measured.
func figure(x float64) string {
	switch {
	case x == 0 || math.IsNaN(x) || math.IsInf(x, 0):
		return ""
	case math.Abs(x) >= 100:
		return thousands(int(math.Round(x)))
	case math.Abs(x) >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}
