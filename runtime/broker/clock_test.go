package broker

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNow(t *testing.T) {
	for range 2 { // the second clock begins before the first one's end
		synctest.Test(t, func(t *testing.T) {
			for _, pause := range []time.Duration{0, 1, 300 * time.Millisecond, 800 * time.Millisecond, time.Hour} {
				time.Sleep(pause)
				if got, want := now(), time.Now(); got != want {
					t.Errorf("after %v: got %v, want %v", pause, got, want)
				}
			}
		})
		before := time.Now()
		got := now()
		if after := time.Now(); got.Before(before) || got.After(after) || got.Round(0).Sub(after.Round(0)).Abs() > time.Minute {
			t.Errorf("got %v between %v and %v", got, before, after)
		}
	}
}
