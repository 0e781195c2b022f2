package child

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
)

// A Usage is what this process has used so far, and holds now.
type Usage struct {
	CPU     float64 // seconds, of user and system
	Mallocs uint64  // objects
	Bytes   uint64  // allocated

	RSS        uint64 // bytes in memory; 0 where the system does not tell
	Heap       uint64 // bytes of objects, dead ones included
	Stacks     uint64 // bytes
	Goroutines uint64
}

var samples = []string{
	"/gc/heap/allocs:objects",
	"/gc/heap/tiny/allocs:objects", // these share objects
	"/gc/heap/allocs:bytes",
	"/memory/classes/heap/objects:bytes",
	"/memory/classes/heap/stacks:bytes",
	"/sched/goroutines:goroutines",
}

// Now reads the usage of this process.
func Now() Usage {
	s := make([]metrics.Sample, len(samples))
	for i, name := range samples {
		s[i].Name = name
	}
	metrics.Read(s)
	value := func(i int) uint64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a Go version that has it no more
		}
		return s[i].Value.Uint64()
	}
	return Usage{
		CPU:        cpuSeconds(),
		Mallocs:    value(0) + value(1),
		Bytes:      value(2),
		RSS:        resident(),
		Heap:       value(3),
		Stacks:     value(4),
		Goroutines: value(5),
	}
}

// Collected is Now after everything that nobody needs was freed.
func Collected() Usage {
	runtime.GC()
	runtime.GC() // what the first one left to finalizers
	return Now()
}

// resident is from Linux' /proc.
func resident() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
