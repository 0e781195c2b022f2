package client

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// budgetWindow is the time that a budget looks back.
const (
	budgetWindow  = 10 * time.Second
	budgetSeconds = float64(budgetWindow / time.Second)
)

// A RetryBudget bounds what a client's attempts add to the load of a service that
// fails: over the last ten seconds, no more than Ratio for each call, and
// MinPerSecond for each second so that services with few calls have some. Attempts
// beyond it are not made: the call fails with what the last one came to.
//
// It counts the attempts after the first that are made although an earlier one may
// have run, hedges among them. Those that are made because it is certain that none
// ran are bounded by the call's MaxAttempts alone.
type RetryBudget struct {
	// Ratio is how many such attempts each call of the service pays for. Default:
	// 0.2; a negative number means none.
	Ratio float64
	// MinPerSecond comes on top. What is not used is kept for ten seconds. Default:
	// 3; a negative number means none.
	MinPerSecond float64
}

func (b RetryBudget) withDefaults() (RetryBudget, error) {
	for _, n := range []struct {
		name     string
		value    *float64
		standard float64
	}{
		{"Ratio", &b.Ratio, 0.2},
		{"MinPerSecond", &b.MinPerSecond, 3},
	} {
		switch v := *n.value; {
		case math.IsNaN(v) || math.IsInf(v, 0):
			return b, fmt.Errorf("%s is %v (a negative number means none)", n.name, v)
		case v == 0:
			*n.value = n.standard
		case v < 0:
			*n.value = 0
		}
	}
	return b, nil
}

// A budget is the RetryBudget of one service. Its clock may begin anywhere.
type budget struct {
	limits RetryBudget
	window *window // notes the attempts that were paid for

	mu sync.Mutex // for spending
}

func newBudget(limits RetryBudget) *budget {
	return &budget{limits: limits, window: newWindow(budgetWindow)}
}

// called counts a call.
func (b *budget) called(now time.Duration) { b.window.at(now).calls.Add(1) }

// spend pays for one more attempt, or reports that there is not enough left.
func (b *budget) spend(now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls, spent := b.window.sum(now)
	if float64(spent+1) > b.limits.Ratio*float64(calls)+b.limits.MinPerSecond*budgetSeconds {
		return false
	}
	b.window.at(now).noted.Add(1)
	return true
}
