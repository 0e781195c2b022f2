package stats_test

import (
	"testing"
	"time"

	"github.com/protomicro/micro/bench/internal/stats"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		xs   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := stats.Median(tt.xs); got != tt.want {
			t.Errorf("Median(%v) = %v, want %v", tt.xs, got, tt.want)
		}
	}
	xs := []float64{3, 1, 2}
	stats.Median(xs)
	if xs[0] != 3 || xs[1] != 1 {
		t.Error("Median sorted its argument")
	}
}

func TestQuantiles(t *testing.T) {
	var h stats.Histogram
	if got := h.Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
	for i := 1; i <= 10_000; i++ {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{
		{0, time.Microsecond}, {0.5, 5 * time.Millisecond}, {0.99, 9900 * time.Microsecond},
		{0.999, 9990 * time.Microsecond}, {1, 10 * time.Millisecond},
	} {
		if got := h.Quantile(tt.q); !near(got, tt.want) {
			t.Errorf("Quantile(%v) = %v, want %v", tt.q, got, tt.want)
		}
	}
}

// TestRanks: with few values, a quantile is one of them and not one between.
func TestRanks(t *testing.T) {
	var h stats.Histogram
	for _, d := range []time.Duration{10, 20, 30, 40} {
		h.Record(d)
	}
	for q, want := range map[float64]time.Duration{0.25: 10, 0.26: 20, 0.5: 20, 0.51: 30, 0.999: 40} {
		if got := h.Quantile(q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
}

func TestWidth(t *testing.T) {
	for d := time.Duration(1); d < 15*time.Minute; d = d*21/20 + 1 {
		var h stats.Histogram
		h.Record(d)
		if got := h.Quantile(1); !near(got, d) {
			t.Fatalf("%v is counted as %v", d, got)
		}
	}
	var h stats.Histogram
	h.Record(-1)
	h.Record(time.Hour)
	if got := h.Quantile(0.1); got != 0 {
		t.Errorf("a negative duration is counted as %v", got)
	}
	if got := h.Quantile(1); got < 15*time.Minute {
		t.Errorf("an hour is counted as %v", got)
	}
}

func TestAdd(t *testing.T) {
	var a, b stats.Histogram
	for range 10 {
		a.Record(time.Millisecond)
		b.Record(time.Second)
	}
	a.Add(&b)
	if a.Count() != 20 || !near(a.Quantile(0.5), time.Millisecond) || !near(a.Quantile(0.51), time.Second) {
		t.Errorf("%d durations, %v and %v in the middle", a.Count(), a.Quantile(0.5), a.Quantile(0.51))
	}
}

func near(got, want time.Duration) bool {
	diff := got - want
	return max(diff, -diff) <= want/100
}
