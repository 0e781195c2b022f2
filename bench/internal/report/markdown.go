package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Markdown writes all tables for a document: first the calls over NATS in proportion to
// raw nats.go, by payload and callers, and then one for each cell.
func Markdown(w io.Writer, r *Report) error {
	var out strings.Builder
	ratios(&out, r.Results)
	for rest := r.Results; len(rest) > 0; {
		title := Title(rest[0])
		n := slices.IndexFunc(rest, func(r Result) bool { return Title(r) != title })
		if n < 0 {
			n = len(rest)
		}
		fmt.Fprintf(&out, "**%s**\n\n", title)
		markdownTable(&out, rest[:n])
		rest = rest[n:]
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func markdownTable(out *strings.Builder, results []Result) {
	head, rule := "| |", "|---|"
	rows := make([]string, len(results))
	for i, r := range results {
		rows[i] = "| " + r.Peer + " |"
	}
	group := ""
	for _, c := range columns(results[0].Unit) {
		cells, found := cellsOf(c, results)
		top, bottom, _ := strings.Cut(c.head, "|")
		if top != "" || bottom == results[0].Unit+"/s" {
			group = top // of those that follow without one
		}
		if !found {
			continue
		}
		head += " " + strings.TrimSpace(group+" "+bottom) + " |"
		rule += "---:|"
		for i, cell := range cells {
			rows[i] += " " + cell + " |"
		}
	}
	for i, r := range results {
		if r.Error != "" {
			rows[i] = "| " + r.Peer + " | no figures: " + strings.ReplaceAll(oneLine(r.Error), "|", `\|`) + " |"
		}
	}
	out.WriteString(head + "\n" + rule + "\n" + strings.Join(rows, "\n") + "\n\n")
}

// ratios is a table of one peer.
func ratios(out *strings.Builder, results []Result) {
	const name = "micro/nats"
	var payloads, callers []int
	ratio := make(map[[2]int]string)
	for _, r := range results {
		if r.Workload == "unary" && r.Peer == name && r.OfBaseline > 0 {
			payloads, callers = append(payloads, r.Payload), append(callers, r.Callers)
			ratio[[2]int{r.Payload, r.Callers}] = figure(r.OfBaseline)
		}
	}
	if len(ratio) == 0 {
		return
	}
	for _, xs := range []*[]int{&payloads, &callers} {
		slices.Sort(*xs)
		*xs = slices.Compact(*xs)
	}
	fmt.Fprintf(out, "**unary, %s of nats.go**\n\n| callers |", name)
	for _, p := range payloads {
		out.WriteString(" " + Size(p) + " |")
	}
	out.WriteString("\n|---:|" + strings.Repeat("---:|", len(payloads)) + "\n")
	for _, c := range callers {
		fmt.Fprintf(out, "| %s |", thousands(c))
		for _, p := range payloads {
			out.WriteString(" " + ratio[[2]int{p, c}] + " |")
		}
		out.WriteString("\n")
	}
	out.WriteString("\n")
}
