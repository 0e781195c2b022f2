package corpus

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
)

// BenchmarkPlugins runs the plugins in turn, as processes and with one and the same
// request for all services of the corpus. A round is one run of each; what is reported
// is the median of each one's wall time, processor time and peak memory.
func BenchmarkPlugins(b *testing.B) {
	programs := buildPlugins(b, plugins)
	c := loadCorpus(b)
	names := slices.Concat(slices.Collect(maps.Values(c.byPackage))...)
	slices.Sort(names)
	raw, err := proto.Marshal(c.request(b, names...))
	if err != nil {
		b.Fatal(err)
	}
	in := tempFile(b, raw)
	b.Logf("one request of %.1f MB for %d services in %d files", float64(len(raw))/1e6, c.services, len(names))

	runs := make(map[string][]run)
	for b.Loop() {
		for _, plugin := range plugins {
			out := tempFile(b, nil)
			r, err := measure(b.Context(), programs[plugin.name], in, out)
			if err != nil {
				b.Fatal(err)
			}
			runs[plugin.name] = append(runs[plugin.name], r)

			res := response(b, out)
			if res.Error != nil || len(res.GetFile()) != len(names) {
				b.Fatalf("%s wrote %d files for %d: %s", plugin.name, len(res.GetFile()), len(names), res.GetError())
			}
		}
	}
	for _, plugin := range plugins {
		b.ReportMetric(median(runs[plugin.name], func(r run) float64 { return r.Wall.Seconds() * 1e3 }), plugin.name+"-ms")
		b.ReportMetric(median(runs[plugin.name], func(r run) float64 { return r.CPU.Seconds() * 1e3 }), plugin.name+"-cpu-ms")
		b.ReportMetric(median(runs[plugin.name], func(r run) float64 { return float64(r.Peak) / 1e6 }), plugin.name+"-MB")
	}
	b.ReportMetric(0, "ns/op") // of all three together, which says nothing
}

func median(runs []run, of func(run) float64) float64 {
	var values []float64
	for _, r := range runs {
		values = append(values, of(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
