package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report of made-up figures.
func sample() *Report {
	r := &Report{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Rounds: 3, Duration: "500ms",
		Machine: Machine{OS: "linux", Arch: "amd64", CPU: "a <fast> one", CPUs: 2, Go: "go1.26"},
		Modules: map[string]string{"example.com/peer": "v1.2.3"},
	}
	add := func(res Result, base float64) {
		res.About, res.PeerIs = "something & more", "a peer"
		if res.Error == "" {
			for i := range 3 {
				res.Rounds = append(res.Rounds, Round{
					Rate: base * float64(i+1), P50: 1e6 / base, P99: 5e6 / base, P999: 9e6 / base,
					ClientCPU: 1e5 / base, ServerCPU: 2e5 / base, ClientAllocs: 12, ServerAllocs: 3, ClientBytes: 2048, ServerBytes: 512,
				})
				if strings.Contains(res.Peer, "nats") {
					res.Rounds[i].NATSCPU = 5e4 / base
				}
			}
			res.Median = Median(res.Rounds).Rounded()
			res.Client = Memory{RSS: 30e6, Live: 2e6}
			if !strings.Contains(res.Peer, "memory") {
				res.Server = &Memory{RSS: 25e6, Live: 1.5e6}
			}
		}
		r.Results = append(r.Results, res)
	}
	for _, payload := range []int{64, 1 << 10} {
		for _, callers := range []int{1, 64} {
			for i, peer := range []string{"nats.go", "micro/nats", "grpc-go", "micro/memory"} {
				res := Result{Workload: "unary", Unit: "calls", Peer: peer, Payload: payload, Callers: callers, OfBaseline: 1 / float64(i+1)}
				if peer == "grpc-go" && callers == 64 {
					res.Error = "the client of grpc-go:\n\tit broke"
				}
				add(res, float64(10_000*(i+1)*callers)/math.Sqrt(float64(payload)))
			}
		}
	}
	for _, peer := range []string{"nats.go", "micro/nats"} {
		add(Result{Workload: "stream-bidi", Unit: "messages", Peer: peer}, 123_456)
	}
	for _, n := range []int{10, 1000} {
		res := Result{Workload: "open-streams", Unit: "calls", Peer: "micro/nats", Payload: 64, Callers: 8, Streams: n}
		add(res, 40_000)
		last := &r.Results[len(r.Results)-1]
		last.Client.PerStream, last.Server.PerStream = 4200, 6800
	}
	return r
}

// golden compares with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines, had := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(lines), len(had)) {
		if i >= len(lines) || i >= len(had) || !bytes.Equal(lines[i], had[i]) {
			t.Errorf("%s is not as it was, from line %d on (if it is to be so: go test ./bench/internal/report -update):\n%s",
				file, i+1, bytes.Join(lines[min(i, len(lines)):min(i+3, len(lines))], []byte("\n")))
			return
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	r := sample()
	for _, cell := range [][]Result{r.Results[:4], r.Results[4:8], r.Results[16:18], r.Results[18:19], nil} {
		if err := Table(&out, cell); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "tables.txt", out.Bytes())
}

func TestMarkdown(t *testing.T) {
	var out bytes.Buffer
	if err := Markdown(&out, sample()); err != nil {
		t.Fatal(err)
	}
	golden(t, "tables.md", out.Bytes())
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	r := sample()
	if err := WriteJSON(&out, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "results.json", out.Bytes())
	back, err := Read(filepath.Join("testdata", "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Error("what is read is not what was written")
	}
	if _, err := Read(filepath.Join("testdata", "tables.txt")); err == nil {
		t.Error("a table was read as JSON")
	}
}

func TestPlots(t *testing.T) {
	plots := Plots(sample())
	var names []string
	for _, p := range plots {
		names = append(names, p.Name)
		var out bytes.Buffer
		if err := p.WriteSVG(&out); err != nil {
			t.Fatal(err)
		}
		wellFormed(t, p.Name, out.Bytes())
		switch p.Name { // one of each form
		case "unary-nats", "streams", "open-streams":
			golden(t, p.Name+".svg", out.Bytes())
		}
	}
	want := []string{
		"unary-nats", "unary-nats-payload", "unary-direct", "unary-direct-payload",
		"unary-cpu", "streams", "open-streams",
	}
	if !slices.Equal(names, want) {
		t.Errorf("the plots are %q", names)
	}
	if p := Plots(&Report{}); len(p) != 0 {
		t.Errorf("nothing makes %d plots", len(p))
	}
}

func wellFormed(t *testing.T, name string, svg []byte) {
	t.Helper()
	if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
		t.Errorf("%s has coordinates that are no numbers", name)
	}
	dec := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestRatio(t *testing.T) {
	rounds := func(rates ...float64) (rs []Round) {
		for _, r := range rates {
			rs = append(rs, Round{Rate: r})
		}
		return rs
	}
	// The median of the ratios, and not the ratio of the medians.
	if got := Ratio(rounds(10, 200, 3), rounds(20, 100, 1)); got != 2 {
		t.Errorf("the ratio is %v", got)
	}
	if got := Ratio(rounds(1), rounds(1, 2)); got != 0 {
		t.Errorf("with a round missing, it is %v", got)
	}
	if got := Ratio(rounds(1), rounds(0)); got != 0 {
		t.Errorf("to nothing, it is %v", got)
	}
}

func TestRounded(t *testing.T) {
	r := Round{Rate: 123456.789, P50: 0.0123456789, ServerCPU: 99999.96}.Rounded()
	if r.Rate != 123460 || r.P50 != 0.012346 || r.ServerCPU != 100000 || r.P99 != 0 {
		t.Errorf("rounded to %+v", r)
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		low, high float64
		want      []float64
	}{
		{3, 70, []float64{2, 5, 10, 20, 50, 100}},
		{10, 10, []float64{10, 20}},
		{0.03, 0.2, []float64{0.02, 0.05, 0.1, 0.2}},
		{4, 90_000, []float64{1, 10, 100, 1000, 10_000, 100_000}},
	} {
		if got := logTicks(tt.low, tt.high); !slices.Equal(got, tt.want) {
			t.Errorf("from %v to %v: %v", tt.low, tt.high, got)
		}
	}
	for most, want := range map[float64]float64{1: 0.2, 4.1: 1, 23: 5, 99: 20, 120: 25, 756_000: 200_000} {
		if got := linearStep(most); got != want {
			t.Errorf("up to %v: steps of %v, want %v", most, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for n, want := range map[int]string{64: "64 B", 1 << 10: "1 KiB", 1500: "1500 B", 1 << 20: "1 MiB", 64 << 10: "64 KiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q", n, got)
		}
	}
	for x, want := range map[float64]string{0: "", 1.234: "1.23", 12.34: "12.3", 1234.5: "1,235", 1234567: "1,234,567"} {
		if got := figure(x); got != want {
			t.Errorf("figure(%v) = %q", x, got)
		}
	}
}
