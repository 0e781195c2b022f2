package selector

import "time"

// A clock is the time since some moment in the past. The policies hold one so that
// tests can say what time it is.
type clock func() time.Duration

var started = time.Now()

// monotonic is the real clock. time.Since reads the monotonic clock alone, in half
// the time of time.Now.
func monotonic() time.Duration { return time.Since(started) }
