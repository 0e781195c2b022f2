//go:build race

package conformance

// raceEnabled is whether the programs are built with the race detector, as the test is.
const raceEnabled = true
