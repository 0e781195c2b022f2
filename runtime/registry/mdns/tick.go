package mdns

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// questions are those that this registry puts.
type questions struct {
	count uint64            // of them
	heard uint64            // the latest that has come back
	sent  map[uint16]uint64 // those that have not, by ID
	id    uint16            // of the last
	at    time.Time         // when it was sent
	next  time.Time         // when to put another
}

const (
	maxSent     = 64                     // questions that are waited for
	minQuestion = 100 * time.Millisecond // from one to the next
)

// active says whether it matters what others have.
func (r *Registry) active() bool {
	if len(r.services)+len(r.listings) > 0 {
		return true
	}
	for _, n := range r.names {
		if n.own != nil || n.leaving != nil {
			return true
		}
	}
	return false
}

// awaited says whether somebody waits for a question to come back.
func (r *Registry) awaited() bool {
	for l := range r.listings {
		if l.after >= r.questions.heard {
			return true
		}
	}
	for _, s := range r.services {
		if !s.ready && s.after >= r.questions.heard {
			return true
		}
	}
	return false
}

// ask puts a question soon.
func (r *Registry) ask(now time.Time) {
	soon := r.questions.at.Add(minQuestion)
	if soon.Before(now) {
		soon = now
	}
	if r.questions.next.IsZero() || r.questions.next.After(soon) {
		r.questions.next = soon
	}
}

// interval is the time to the next question. Four come within the shortest TTL, and
// four more in the last fifth of one that is about to end.
func (r *Registry) interval(now time.Time) time.Duration {
	const asks, late = 4, 5 // parts of a TTL
	shortest, soon := r.ttl, r.ttl
	for _, n := range r.names {
		if n.heard == nil {
			continue
		}
		ttl := max(n.heard.ttl, MinTTL)
		shortest = min(shortest, ttl)
		if left := n.expires.Sub(now) - ttl/late; left > 0 {
			soon = min(soon, left)
		} else {
			soon = min(soon, ttl/late/4)
		}
	}
	usual := shortest / asks
	return min(soon, usual*8/10+rand.N(usual*3/10))
}

// tick does what is due.
func (r *Registry) tick(now time.Time) {
	r.tickReach(now)
	r.tickQuestions(now)
	r.tickNames(now)
	r.tickAnswers(now)
	r.tickViews(now)
}

func (r *Registry) tickQuestions(now time.Time) {
	q := &r.questions
	if !r.active() {
		r.viewSince, q.next, r.unheard = time.Time{}, time.Time{}, time.Time{}
		return
	}
	if r.viewSince.IsZero() {
		r.viewSince, q.next = now, now
	}
	if q.next.After(now) {
		return
	}
	if len(q.sent) >= maxSent {
		clear(q.sent)
	}
	q.count++
	if q.id++; q.id == 0 { // that of everybody else
		q.id++
	}
	q.sent[q.id] = q.count
	q.at = now
	q.next = now.Add(r.interval(now))
	if now.Sub(r.viewSince) < r.tuning.again {
		q.next = now.Add(r.tuning.again) // the first may be lost
	}
	message, err := r.query(q.id)
	if err == nil {
		r.send(now, message)
	}
}

func (r *Registry) tickNames(now time.Time) {
	for l, n := range r.names {
		// What cannot be heard does not expire.
		if n.heard != nil && r.unheard.IsZero() && !n.expires.After(now) {
			r.vanishes(now, n)
		}
		if own := n.own; own != nil && !own.announceAt.IsZero() && !own.announceAt.After(now) {
			own.attempts++
			own.announceAt = time.Time{}
			if n.heard == nil || !own.rec.same(n.heard) || !own.isMet() {
				own.announceAt = now.Add(r.backoff(own.attempts))
			}
			n.sentAt = now
			r.send(now, own.message)
		}
		if n.leaving != nil && !n.leaving.at.After(now) {
			n.leaving.attempts++
			n.leaving.at = now.Add(r.backoff(n.leaving.attempts))
			r.send(now, n.leaving.message)
		}
		r.forget(l)
	}
}

// backoff is the time to wait for a packet before it is sent again.
func (r *Registry) backoff(attempts int) time.Duration {
	return min(r.tuning.patience<<min(attempts-1, 4), max(r.tuning.away, r.tuning.patience))
}

func (r *Registry) tickAnswers(now time.Time) {
	if r.answerAt.IsZero() || r.answerAt.After(now) {
		return
	}
	r.answerAt = time.Time{}
	for l := range r.answers {
		n := r.names[l]
		if n == nil || !n.stands() {
			delete(r.answers, l)
			continue
		}
		if at := n.sentAt.Add(r.tuning.between); at.After(now) {
			if r.answerAt.IsZero() || at.Before(r.answerAt) {
				r.answerAt = at
			}
			continue
		}
		delete(r.answers, l)
		n.sentAt = now
		r.send(now, n.own.message)
	}
}

// send sends to all. It fails where the interface is gone.
func (r *Registry) send(now time.Time, message []byte) {
	r.sendErr = r.link.send(message, group)
	if r.unheard.IsZero() {
		r.unheard = now
	}
}

// comesBack notes that something that was sent was heard: multicast works.
func (r *Registry) comesBack(now time.Time) {
	r.heardAt, r.unheard = now, time.Time{}
	if r.away == nil {
		return
	}
	r.cfg.Logger.Info("mdns registry: multicast works again", "interface", r.link.address())
	r.away = nil
	r.viewSince = now
	r.ask(now)
	for _, n := range r.names {
		if n.heard != nil {
			n.expires = now.Add(n.heard.ttl)
		}
		if n.stands() {
			n.own.renew(n, now)
		}
	}
	for _, s := range r.services {
		s.ready, s.after = false, r.questions.count
	}
}

// tickReach finds out that multicast does not work, and tries to mend it.
func (r *Registry) tickReach(now time.Time) {
	if r.unheard.IsZero() {
		return
	}
	if r.away == nil && now.Sub(r.unheard) < r.tuning.stale {
		if !r.overdue().After(now) {
			r.ask(now) // a question makes sure
		}
		return
	}
	why := fmt.Errorf("what is sent to %v from %v does not come back (multicast has to be allowed on the interface)", group, r.link.address())
	if r.sendErr != nil {
		why = fmt.Errorf("multicast to %v from %v: %w", group, r.link.address(), r.sendErr)
	}
	if r.away == nil {
		r.cfg.Logger.Warn("mdns registry: multicast does not work; the instances last known stay in use", "error", why)
		r.reopenAt = now.Add(r.tuning.away)
		for _, s := range r.services {
			s.ready = false
		}
		for _, n := range r.names {
			if n.own != nil {
				n.own.falls(why)
			}
		}
	}
	r.away = why
	if r.reopenAt.After(now) {
		return
	}
	r.reopenAt = now.Add(r.tuning.away)
	// The interface may have been replaced, or have got another address.
	if l, err := r.open(); err == nil {
		_ = r.link.close()
		r.use(l)
	} else {
		r.away = err
	}
	r.questions.next = now
}

// overdue is when something that was sent should have come back.
func (r *Registry) overdue() time.Time {
	last := r.unheard
	if r.questions.at.After(last) {
		last = r.questions.at
	}
	return last.Add(r.tuning.patience)
}

// due is when tick is to be called again, after a call at now.
func (r *Registry) due(now time.Time) time.Time {
	due := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	sooner(r.questions.next)
	sooner(r.answerAt)
	for _, n := range r.names {
		if n.heard != nil && r.unheard.IsZero() {
			sooner(n.expires)
		}
		if n.own != nil {
			sooner(n.own.announceAt)
		}
		if n.leaving != nil {
			sooner(n.leaving.at)
		}
	}
	switch {
	case r.away != nil:
		sooner(r.reopenAt)
	case !r.unheard.IsZero():
		sooner(r.unheard.Add(r.tuning.stale))
		sooner(r.overdue())
	}
	if r.unready() {
		for _, wait := range []time.Duration{r.tuning.early, r.tuning.window} {
			if at := r.viewSince.Add(wait); at.After(now) {
				sooner(at)
			}
		}
	}
	if soonest := now.Add(time.Millisecond); due.Before(soonest) {
		due = soonest // whatever is overlooked must not take a processor
	}
	return due
}
