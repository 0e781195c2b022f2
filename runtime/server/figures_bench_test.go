package server

import (
	"testing"
	"time"
)

// BenchmarkCount is what the figures add to a call that goes well.
func BenchmarkCount(b *testing.B) {
	var f figures
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		f.count(time.Since(now), nil)
	}
}

func BenchmarkCountParallel(b *testing.B) {
	var f figures
	now := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.count(time.Since(now), nil)
		}
	})
}
