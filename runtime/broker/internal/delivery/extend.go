package delivery

import "time"

// startExtending sets the timer of the extender, which runs while something is in flight.
// e.mu is held.
func (e *Engine) startExtending() {
	e.extends = true
	if e.extender == nil {
		e.extender = time.AfterFunc(e.cfg.ExtendEvery, e.extend)
		return
	}
	e.extender.Reset(e.cfg.ExtendEvery)
}

// extend extends all that is in flight.
func (e *Engine) extend() {
	e.mu.Lock()
	all := e.inFlight.all()
	e.mu.Unlock()
	for _, d := range all {
		d.extend()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.extends = false
	if e.inFlight.len > 0 {
		e.startExtending()
	}
}

func (e *Engine) stopExtending() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.extender != nil {
		e.extender.Stop()
	}
}
