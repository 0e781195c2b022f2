// Package report is what a run found out: in a file, in tables and in pictures.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/protomicro/micro/bench/internal/stats"
)

// A Report is all that a run found out.
type Report struct {
	Time     time.Time `json:"time"`
	Commit   string    `json:"commit,omitempty"` // of the program, where it is known
	Machine  Machine   `json:"machine"`
	Rounds   int       `json:"rounds"`
	Duration string    `json:"duration"` // of a peer in a round
	// Modules are the versions of what is compared.
	Modules map[string]string `json:"modules"`
	Results []Result          `json:"results"`
}

// A Machine is where it ran.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPU  string `json:"cpu,omitempty"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
	// Load is that of the minute before, where the system tells.
	Load string `json:"load,omitempty"`
}

// A Result is what one peer did in one cell of a workload.
type Result struct {
	Workload string `json:"workload"`
	About    string `json:"about"`
	Unit     string `json:"unit"` // of what is counted, in the plural
	Peer     string `json:"peer"`
	PeerIs   string `json:"peer_is"`

	Payload   int `json:"payload,omitempty"` // bytes
	Callers   int `json:"callers,omitempty"`
	Services  int `json:"services,omitempty"`
	Instances int `json:"instances,omitempty"`
	Streams   int `json:"streams,omitempty"`

	// Error is why there are no figures.
	Error string `json:"error,omitempty"`

	// Median is that of each figure over the rounds.
	Median Round   `json:"median"`
	Rounds []Round `json:"rounds,omitempty"`
	// OfBaseline is the median of the ratios of this rate to the first peer's, round
	// by round, where that one is nats.go.
	OfBaseline float64 `json:"of_baseline,omitempty"`

	// Client and Server are the memory of the processes after the last round. Server is
	// empty where there is but one.
	Client Memory  `json:"client"`
	Server *Memory `json:"server,omitempty"`
}

// A Round is what a peer did in a round. CPU is in microseconds, latencies as well; 0 is
// what was not measured.
type Round struct {
	Rate float64 `json:"rate"` // of operations a second

	P50  float64 `json:"p50_us,omitempty"`
	P99  float64 `json:"p99_us,omitempty"`
	P999 float64 `json:"p999_us,omitempty"`

	ClientCPU float64 `json:"client_cpu_us"` // for each operation, and so on
	ServerCPU float64 `json:"server_cpu_us"`
	NATSCPU   float64 `json:"nats_cpu_us"`

	ClientAllocs float64 `json:"client_allocs"`
	ServerAllocs float64 `json:"server_allocs"`
	ClientBytes  float64 `json:"client_bytes"`
	ServerBytes  float64 `json:"server_bytes"`
}

// Memory is what a process holds, in bytes.
type Memory struct {
	RSS uint64 `json:"rss"` // with what the rounds have left
	// Live is heap and stacks after a collection.
	Live uint64 `json:"live"`
	// PerStream is how much more is live for each stream that is open.
	PerStream float64 `json:"per_stream,omitempty"`
}

// figures are the fields of a Round.
func (r *Round) figures() []*float64 {
	return []*float64{
		&r.Rate, &r.P50, &r.P99, &r.P999, &r.ClientCPU, &r.ServerCPU, &r.NATSCPU,
		&r.ClientAllocs, &r.ServerAllocs, &r.ClientBytes, &r.ServerBytes,
	}
}

// Rounded has no more digits than say something.
func (r Round) Rounded() Round {
	for _, f := range r.figures() {
		if *f == 0 || math.IsInf(*f, 0) || math.IsNaN(*f) {
			continue
		}
		unit := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(*f))))
		*f = math.Round(*f*unit) / unit
	}
	return r
}

// Median has the median of each figure.
func Median(rounds []Round) (m Round) {
	for i, f := range m.figures() {
		xs := make([]float64, len(rounds))
		for j := range rounds {
			xs[j] = *rounds[j].figures()[i]
		}
		*f = stats.Median(xs)
	}
	return m
}

// Ratio is the median of the ratios of the rates, round by round. It is 0 where a round
// is missing.
func Ratio(rounds, baseline []Round) float64 {
	if len(rounds) != len(baseline) {
		return 0
	}
	xs := make([]float64, len(rounds))
	for i := range xs {
		if baseline[i].Rate == 0 {
			return 0
		}
		xs[i] = rounds[i].Rate / baseline[i].Rate
	}
	return stats.Median(xs)
}

// WriteJSON writes the report.
func WriteJSON(w io.Writer, r *Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "\t")
	return enc.Encode(r)
}

// Read reads what [WriteJSON] wrote.
func Read(file string) (*Report, error) {
	b, err := os.ReadFile(file) //nolint:gosec // the user names it
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s is no report: %w", file, err)
	}
	return r, nil
}
