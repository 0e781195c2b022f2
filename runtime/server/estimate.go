package server

import (
	"sync/atomic"
	"time"
)

// An average of durations, in which the last ones count most. Values that are added
// at the same time may be lost. 0 means that there were none.
type average struct{ v atomic.Int64 }

func (a *average) get() time.Duration { return time.Duration(a.v.Load()) }

func (a *average) add(d time.Duration) {
	old := a.v.Load()
	if old == 0 {
		a.v.Store(max(1, int64(d)))
		return
	}
	a.v.Store(max(1, old+(int64(d)-old)/8))
}

// A median of durations, which moves by a sixteenth of its value towards each one that
// is added, whatever the distance: a few calls that take very long do not make it
// large. Values that are added at the same time may be lost. 0 means that there were
// none.
type median struct{ v atomic.Int64 }

func (m *median) get() time.Duration { return time.Duration(m.v.Load()) }

func (m *median) add(d time.Duration) {
	old := m.v.Load()
	step := old/16 + 1
	switch n := max(1, int64(d)); {
	case old == 0:
		m.v.Store(n)
	case n > old:
		m.v.Store(min(n, old+step))
	case n < old:
		m.v.Store(max(n, old-step))
	}
}

// doubt makes it a little smaller, as it is used to keep values from being added: one
// that is too large does not stay so.
func (m *median) doubt() {
	old := m.v.Load()
	m.v.Store(max(1, old-old/64))
}
