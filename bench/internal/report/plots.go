package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A Plot is a picture of some of the results.
type Plot struct {
	Name  string // of the file, without what follows the dot
	chart interface{ writeSVG(w io.Writer) error }
}

// WriteSVG writes the picture.
func (p Plot) WriteSVG(w io.Writer) error { return p.chart.writeSVG(w) }

// A group is peers that are in one picture.
type group struct {
	name, title string
	peers       []string
}

var groups = []group{
	{"nats", "over NATS", []string{"nats.go", "nats.go/micro", "nats.go/micro+proto", "psrpc", "psrpc/skip-claim", "micro/nats"}},
	{"direct", "from process to process, and in one", []string{"grpc-go", "connect-go", "drpc", "connect-go>micro", "micro/http", "micro/memory"}},
	{"encodings", "with JSON or gzip", []string{"connect-go/gzip", "micro/http-connect", "micro/http-connect/json", "micro/http/json", "micro/nats/json", "micro/memory/json"}},
}

var styles = map[string]style{
	"nats.go":             {black, circle, ""},
	"nats.go/micro":       {grey, square, ""},
	"nats.go/micro+proto": {grey, cross, "6 3"},
	"psrpc":               {orange, triangle, ""},
	"psrpc/skip-claim":    {vermillion, triangle, "6 3"},
	"micro/nats":          {blue, diamond, ""},

	"grpc-go":          {green, square, ""},
	"connect-go":       {purple, triangle, ""},
	"drpc":             {orange, circle, ""},
	"connect-go>micro": {purple, cross, "2 3"},
	"micro/http":       {sky, diamond, ""},
	"micro/memory":     {grey, diamond, "6 3"},

	"connect-go/gzip":         {purple, triangle, "6 3"},
	"micro/http-connect":      {vermillion, diamond, ""},
	"micro/http-connect/json": {vermillion, cross, "2 3"},
	"micro/http/json":         {sky, cross, "2 3"},
	"micro/nats/json":         {blue, cross, "2 3"},
	"micro/memory/json":       {grey, cross, "2 3"},
}

// A metric is what is drawn of a result; 0 is nothing.
type metric struct {
	label string
	of    func(Result) float64
}

var (
	rateOf = func(unit string) metric {
		return metric{unit + " a second", func(r Result) float64 { return r.Median.Rate }}
	}
	p50Of = metric{"p50, µs", func(r Result) float64 { return r.Median.P50 }}
	p99Of = metric{"p99, µs", func(r Result) float64 { return r.Median.P99 }}
	cpuOf = metric{"CPU of all processes, µs a call", func(r Result) float64 {
		return r.Median.ClientCPU + r.Median.ServerCPU + r.Median.NATSCPU
	}}
	serverLiveOf = metric{"live memory of the server, MB", func(r Result) float64 {
		if r.Server == nil {
			return float64(r.Client.Live) / 1e6
		}
		return float64(r.Server.Live) / 1e6
	}}
	clientLiveOf = metric{"live memory of the client, MB", func(r Result) float64 { return float64(r.Client.Live) / 1e6 }}
	perStreamOf  = metric{"live memory, both sides, kB a stream", func(r Result) float64 {
		if r.Server == nil {
			return r.Client.PerStream / 1e3
		}
		return (r.Client.PerStream + r.Server.PerStream) / 1e3
	}}
)

// Plots are all pictures for which there are results.
func Plots(r *Report) (plots []Plot) {
	d := drawer{results: r.Results, sub: subtitle(r)}
	for _, g := range groups {
		d.unary(g)
	}
	d.bars("unary-cpu", "CPU of a call", []barMetric{cpuBars("unary", 1<<10, 64), cpuBars("unary", 64<<10, 64)})
	d.bars("unary-memory", "Memory after calls by many", []barMetric{memoryBars("unary", 1<<10, 1024), memoryBars("unary", 64<<10, 1024)})
	var rates, cpu []barMetric
	for _, w := range []string{"stream-server", "stream-client", "stream-bidi"} {
		rates, cpu = append(rates, rateBars(w, "messages")), append(cpu, cpuBars(w, 0, 0))
	}
	d.bars("streams", "One stream of messages of 256 B", append(rates, cpu...))
	d.bars("events", "Events of 256 B", []barMetric{
		rateBars("events-core", "events"), rateBars("events-jetstream", "events"),
		cpuBars("events-core", 0, 0), cpuBars("events-jetstream", 0, 0),
	})
	var latencies []barMetric
	for _, m := range []metric{p50Of, p99Of} {
		for _, w := range []string{"stream-latency", "events-core-latency", "events-jetstream-latency"} {
			latencies = append(latencies, latencyBars(w, m))
		}
	}
	d.bars("latency", "One message of 256 B at a time: there and back on a stream, and from publishing to the handler", latencies)
	d.growth("services", "Calls to the services of one process", "services", func(r Result) int { return r.Services },
		rateOf("calls"), p99Of, cpuOf, serverLiveOf)
	d.growth("instances", "Calls to the instances of a service", "instances", func(r Result) int { return r.Instances },
		rateOf("calls"), p99Of, cpuOf, clientLiveOf)
	d.growth("open-streams", "Open streams on which nothing happens, and calls beside them", "open streams",
		func(r Result) int { return r.Streams }, perStreamOf, rateOf("calls"), p50Of, p99Of)
	return d.plots
}

func subtitle(r *Report) string {
	s := fmt.Sprintf("Medians of %d rounds of %s. %s, %d CPUs, %s.", r.Rounds, r.Duration, r.Machine.CPU, r.Machine.CPUs, r.Machine.Go)
	if r.Rounds == 1 {
		s = strings.Replace(s, "Medians of 1 rounds", "One round", 1)
	}
	return s
}

type drawer struct {
	results []Result
	sub     string
	plots   []Plot
}

// line is what a peer has of a metric by something that grows.
func (d *drawer) line(peer string, m metric, x func(Result) int, in func(Result) bool) series {
	s := series{name: peer, style: styles[peer]}
	if s.style == (style{}) {
		s.style = style{colour: black, dash: "1 4"}
	}
	for _, r := range d.results {
		if r.Peer == peer && r.Error == "" && in(r) && x(r) > 0 && m.of(r) > 0 {
			s.points = append(s.points, point{float64(x(r)), m.of(r)})
		}
	}
	slices.SortFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	return s
}

// lines adds a chart if there is anything in it.
func (d *drawer) lines(name string, ch lineChart) {
	ch.panels = slices.DeleteFunc(ch.panels, func(p linePanel) bool {
		return !slices.ContainsFunc(p.series, func(s series) bool { return len(s.points) > 0 })
	})
	if len(ch.panels) > 0 {
		ch.sub = d.sub + ch.note
		d.plots = append(d.plots, Plot{name, ch})
	}
}

// unary draws calls of a group by callers and by payload.
func (d *drawer) unary(g group) {
	payloads, callers := d.values(func(r Result) int { return r.Payload }), d.values(func(r Result) int { return r.Callers })
	ch := lineChart{title: "Calls " + g.title + ", by callers", columns: len(payloads)}
	for _, m := range []metric{rateOf("calls"), p99Of, cpuOf} {
		for _, payload := range payloads {
			p := linePanel{title: Size(payload), xLabel: "callers at one time", yLabel: m.label}
			for _, peer := range g.peers {
				p.series = append(p.series, d.line(peer, m, func(r Result) int { return r.Callers },
					func(r Result) bool { return r.Workload == "unary" && r.Payload == payload }))
			}
			ch.panels = append(ch.panels, p)
		}
	}
	d.lines("unary-"+g.name, ch)

	ch = lineChart{title: "Calls " + g.title + ", by payload", columns: 3}
	for _, n := range callers {
		if n != 1 && n != 64 {
			continue
		}
		for _, m := range []metric{rateOf("calls"), p50Of, cpuOf} {
			p := linePanel{title: plural(n, "caller"), xLabel: "payload each way", yLabel: m.label, xTick: sizeTick}
			for _, peer := range g.peers {
				p.series = append(p.series, d.line(peer, m, func(r Result) int { return r.Payload },
					func(r Result) bool { return r.Workload == "unary" && r.Callers == n }))
			}
			ch.panels = append(ch.panels, p)
		}
	}
	d.lines("unary-"+g.name+"-payload", ch)
}

// values are those that unary calls were measured with.
func (d *drawer) values(of func(Result) int) (values []int) {
	for _, r := range d.results {
		if r.Workload == "unary" {
			values = append(values, of(r))
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

func (d *drawer) growth(workload, title, unit string, x func(Result) int, metrics ...metric) {
	ch := lineChart{title: title, columns: 2}
	var peers []string
	for _, r := range d.results {
		if r.Workload == workload && !slices.Contains(peers, r.Peer) {
			peers = append(peers, r.Peer)
			ch.note = fmt.Sprintf(" Calls of %s, %s.", Size(r.Payload), plural(r.Callers, "caller"))
		}
	}
	for _, m := range metrics {
		p := linePanel{title: m.label, xLabel: unit}
		for _, peer := range peers {
			p.series = append(p.series, d.line(peer, m, x, func(r Result) bool { return r.Workload == workload }))
		}
		ch.panels = append(ch.panels, p)
	}
	d.lines(workload, ch)
}

// A barMetric is a panel of bars, one for each peer of a cell.
type barMetric struct {
	workload         string
	title            string
	payload, callers int
	xLabel           string
	parts            []part
	of               func(Result) []float64
}

func rateBars(workload, unit string) barMetric {
	return barMetric{workload, workload, 0, 0, unit + " a second", []part{{"", green}},
		func(r Result) []float64 { return []float64{r.Median.Rate} }}
}

func latencyBars(workload string, m metric) barMetric {
	return barMetric{workload, workload, 0, 0, m.label, []part{{"", green}},
		func(r Result) []float64 { return []float64{m.of(r)} }}
}

func cpuBars(workload string, payload, callers int) barMetric {
	title, each, sides := workload, "an event", [2]string{"publisher", "subscriber"}
	switch {
	case payload > 0:
		title, each, sides = Size(payload)+", "+plural(callers, "caller"), "a call", [2]string{"client", "server"}
	case strings.HasPrefix(workload, "stream"):
		each, sides = "a message", [2]string{"client", "server"}
	}
	return barMetric{workload, title, payload, callers, "CPU, µs " + each,
		[]part{{sides[0], blue}, {sides[1], orange}, {"NATS server", grey}},
		func(r Result) []float64 {
			return []float64{r.Median.ClientCPU, r.Median.ServerCPU, r.Median.NATSCPU}
		}}
}

func memoryBars(workload string, payload, callers int) barMetric {
	return barMetric{workload, Size(payload) + ", " + plural(callers, "caller"), payload, callers, "RSS, MB",
		[]part{{"client", blue}, {"server", orange}},
		func(r Result) []float64 {
			rss := []float64{float64(r.Client.RSS) / 1e6, 0}
			if r.Server != nil {
				rss[1] = float64(r.Server.RSS) / 1e6
			}
			return rss
		}}
}

// bars adds a chart of those panels for which there are results.
func (d *drawer) bars(name, title string, metrics []barMetric) {
	ch := barChart{title: title, sub: d.sub, columns: (len(metrics) + 1) / 2}
	if len(metrics) == 2 {
		ch.columns = 2
	}
	for _, m := range metrics {
		p := barPanel{title: m.title, xLabel: m.xLabel, parts: m.parts}
		for _, r := range d.results {
			if r.Workload != m.workload || r.Payload != m.payload || r.Callers != m.callers {
				continue
			}
			b := bar{name: r.Peer, values: make([]float64, len(m.parts)), ours: strings.HasPrefix(r.Peer, "micro")}
			if r.Error == "" {
				b.values = m.of(r)
			}
			p.bars = append(p.bars, b)
		}
		if len(p.bars) > 0 {
			ch.panels = append(ch.panels, p)
		}
	}
	if len(ch.panels) > 0 {
		d.plots = append(d.plots, Plot{name, ch})
	}
}
