package selector

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
)

// An Attempt is one attempt of a call that is under way, to the instance that was
// picked for it. It is a value of two words and costs no allocation; the zero Attempt
// belongs to a picker that learns nothing from outcomes.
type Attempt struct {
	rec *record
	use uint64 // of the record
}

// NewAttempt is an Attempt whose end calls done, for pickers outside of this package.
// One around another picker calls that one's Done in it.
func NewAttempt(done func(Result)) Attempt {
	if done == nil {
		return Attempt{}
	}
	rec := newRecord(&Info{})
	rec.parts = append(rec.parts, part{done: done})
	return rec.begin()
}

// Done ends the attempt with its outcome. Only the first call does anything, even long
// afterwards. It is safe for concurrent use.
func (a Attempt) Done(r Result) {
	if a.rec != nil && a.rec.state.CompareAndSwap(a.use, a.use+1) {
		a.rec.end(r)
	}
}

// A chooser is a picker of this package. Policies around others call choose and not
// Pick, so that all layers of one attempt share one record of it.
type chooser interface {
	Picker
	// choose is Pick, but that whoever wants to hear of the outcome adds itself to the
	// record, and that it is nil, without an error, where there is nothing to choose
	// from: a layer above may know another one.
	choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error)
	// usable is how many instances take new calls, of how many that are known.
	usable() (now, known int)
}

// A listener hears of the end of an attempt, once. with is what it gave to
// [record.tell].
type listener interface {
	ended(rec *record, with float64)
}

// A record is what the layers note of an attempt. Records are used again and again;
// an Attempt whose record has moved on has ended.
type record struct {
	state atomic.Uint64 // odd while an attempt is under way; it only goes up
	parts []part
	room  [4]part // for parts, enough for most

	stream bool
	time   time.Duration // once timed
	timed  bool

	// What it came to; for listeners.
	result  Result
	verdict verdict
}

// A part is who wants to hear of the end: a listener or, of a picker from elsewhere,
// what ends its part.
type part struct {
	to   listener
	with float64
	done func(Result)
	next Attempt
}

var records = sync.Pool{New: func() any {
	rec := new(record)
	rec.parts = rec.room[:0]
	return rec
}}

func newRecord(call *Info) *record {
	rec := records.Get().(*record)
	rec.stream = call.Spec != nil && call.Spec.Kind != rpc.Unary
	return rec
}

// pickThrough is the Pick of choosers, for the number of their instances.
func pickThrough(ctx context.Context, c chooser, call Info, instances int) (*registry.Instance, Attempt, error) {
	rec := newRecord(&call)
	in, err := c.choose(ctx, call, rec)
	if in == nil {
		rec.withdraw(0, len(rec.parts))
		rec.free()
		if err == nil {
			err = none(instances)
		}
		return nil, Attempt{}, err
	}
	return in, rec.begin(), nil
}

// begin makes the record that of an attempt under way.
func (rec *record) begin() Attempt {
	return Attempt{rec, rec.state.Add(1)}
}

func (rec *record) end(r Result) {
	rec.result, rec.verdict = r, judge(&r)
	rec.time += r.Elapsed // reading the clock again would cost more than all the rest
	rec.hear(rec.parts)
	rec.free()
}

// tell has l hear of the attempt's end.
func (rec *record) tell(l listener, with float64) {
	rec.parts = append(rec.parts, part{to: l, with: with})
}

func (rec *record) hear(parts []part) {
	for i := range parts {
		switch p := &parts[i]; {
		case p.to != nil:
			p.to.ended(rec, p.with)
		case p.done != nil:
			p.done(rec.result)
		default:
			p.next.Done(rec.result)
		}
	}
}

// withdraw takes back the choices that added the parts in [from, to).
func (rec *record) withdraw(from, to int) {
	rec.result, rec.verdict = Result{Err: context.Canceled, NotStarted: true}, silent
	rec.hear(rec.parts[from:to])
	rec.parts = slices.Delete(rec.parts, from, to)
}

// free gives the record back. It must not keep what it refers to alive.
func (rec *record) free() {
	clear(rec.parts)
	rec.parts = rec.parts[:0]
	rec.result, rec.timed = Result{}, false
	records.Put(rec)
}

// now is the time, read once for all who ask while choosing; at the end it is that and
// the time that the attempt took.
func (rec *record) now(c clock) time.Duration {
	if !rec.timed {
		rec.time, rec.timed = c(), true
	}
	return rec.time
}

// chooserOf is p as a layer below another.
func chooserOf(p Picker, instances []registry.Instance) chooser {
	if c, ok := p.(chooser); ok {
		return c
	}
	return &adoptedPicker{p, newMembers(instances, byState)}
}

// An adoptedPicker is a picker from elsewhere as a layer below another.
type adoptedPicker struct {
	Picker
	members
}

func (p *adoptedPicker) choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error) {
	in, attempt, err := p.Pick(ctx, call)
	if err != nil {
		return nil, err
	}
	rec.parts = append(rec.parts, part{next: attempt})
	return in, nil
}

// pickerOf is what a policy below another built, to be given back to it.
func pickerOf(c chooser) Picker {
	if f, ok := c.(*adoptedPicker); ok {
		return f.Picker
	}
	if c == nil {
		return nil
	}
	return c
}
