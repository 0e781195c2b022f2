package codectest

import "runtime"

// allocationLimit is how many bytes the parsing of a frame of n bytes may allocate:
// a generous multiple, beside what other goroutines may need meanwhile.
func allocationLimit(n int) uint64 { return 256<<10 + 256*uint64(n) }

// allocatedBy is how many bytes f allocates, together with the rest of the program.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
