package mdns

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// receiveAll takes in a packet and those that wait behind it.
func (r *Registry) receiveAll(p packet) {
	for range maxPackets {
		if p.from == r.link { // and not one that was given up
			r.receive(p)
		}
		select {
		case p = <-r.packets:
		default:
			return
		}
	}
}

// receive takes a packet in.
func (r *Registry) receive(p packet) {
	now := time.Now()
	m := r.parse(p.data)
	if count, ours := r.questions.sent[m.id]; ours && len(m.questions) > 0 {
		delete(r.questions.sent, m.id)
		r.questions.heard = max(r.questions.heard, count)
		r.comesBack(now)
	} else {
		r.othersAsk(now, m)
	}
	for _, q := range m.questions {
		if p.source.Port() != port {
			r.answerLegacy(now, q, p.source)
			continue
		}
		for l, n := range r.names {
			if n.stands() && !m.known[l] && (q.label == "" || q.label == l) {
				r.answers[l] = true
				if r.answerAt.IsZero() {
					r.answerAt = now.Add(r.tuning.delay/5 + rand.N(r.tuning.delay*4/5))
				}
			}
		}
	}
	for _, rec := range m.records {
		r.hear(now, rec)
	}
	for l, err := range m.bad {
		r.complain(l, err)
	}
}

// othersAsk spares this registry a question that somebody else has just put.
func (r *Registry) othersAsk(now time.Time, m message) {
	if len(m.questions) != 1 || m.questions[0].label != "" || len(m.known) > 0 || m.questions[0].Class&topBit != 0 {
		return
	}
	if r.unheard.IsZero() && !r.awaited() && !r.viewSince.IsZero() && now.Sub(r.viewSince) > r.tuning.again {
		r.questions.next = now.Add(r.interval(now))
	}
}

// answerLegacy answers a resolver that does not listen to the group.
func (r *Registry) answerLegacy(now time.Time, q question, to netip.AddrPort) {
	if !r.link.near(to.Addr()) {
		return
	}
	for l, n := range r.names {
		if !n.stands() || q.label != "" && q.label != l {
			continue
		}
		if now.Sub(r.legacyAt) > time.Second {
			r.legacyAt, r.legacy = now, 0
		}
		if r.legacy++; r.legacy > maxLegacy {
			return // it asks again
		}
		if message, err := r.response(n.own.rec, r.link.address(), r.ttl, &q); err == nil {
			_ = r.link.send(message, to) // as well
		}
	}
}

// hear takes in what somebody, perhaps this registry, says of an instance.
func (r *Registry) hear(now time.Time, rec *record) {
	delete(r.bad, rec.label)
	defer r.forget(rec.label)
	n := r.names[rec.label]
	if rec.ttl == 0 {
		r.hearGoodbye(now, n, rec)
		return
	}
	if n == nil {
		if len(r.names) >= r.tuning.instances {
			if !r.full {
				r.full = true
				r.cfg.Logger.Warn("mdns registry: so many instances are known that others are passed over", "limit", r.tuning.instances, "interface", r.cfg.Interface)
			}
			return
		}
		r.full = false
		n = r.name(rec.label)
	}
	ours := n.own != nil && rec.same(n.own.rec)
	if ours {
		r.comesBack(now)
	}
	switch {
	case n.heard == nil || rec.newer(n.heard):
		n.heard = rec
		n.expires = now.Add(rec.ttl)
		r.changed(rec)
	case rec.same(n.heard):
		n.heard.ttl = rec.ttl
		n.expires = now.Add(rec.ttl)
	default: // an older one: whoever sends it has missed something
		if n.own != nil && n.own.rec.same(n.heard) && n.own.announceAt.IsZero() {
			n.own.announceAt = n.sentAt.Add(r.tuning.between)
		}
		return
	}
	switch {
	case n.own == nil:
	case ours:
		n.own.hears(now)
	case !rec.newer(n.own.rec):
		// It was registered before, and will hear of ours.
	default:
		if n.own.isMet() && n.own.State().Registered {
			r.cfg.Logger.Warn("mdns registry: another process registers the same instance", "service", rec.instance.Service, "id", rec.instance.ID)
		}
		n.own.hears(now) // a Register that waits has succeeded, and was replaced
		n.own.falls(errTaken)
		n.own.announceAt = time.Time{}
	}
}

func (r *Registry) hearGoodbye(now time.Time, n *name, rec *record) {
	if n == nil {
		return
	}
	if n.leaving != nil && rec.same(n.leaving.rec) {
		r.comesBack(now)
		n.endGoodbye()
	}
	if n.heard == nil || n.heard.newer(rec) {
		return
	}
	r.vanishes(now, n)
}

// vanishes is for when what stands for a name is gone.
func (r *Registry) vanishes(now time.Time, n *name) {
	gone := n.heard
	n.heard = nil
	r.changed(gone)
	if n.own != nil && (n.own.announceAt.IsZero() || !n.own.rec.newer(gone)) {
		n.own.renew(n, now)
	}
}

func (reg *registration) isMet() bool {
	select {
	case <-reg.met:
		return true
	default:
		return false
	}
}

// complain says that a record is passed over, once. The others are not affected.
func (r *Registry) complain(label string, err error) {
	if r.bad[label] == err.Error() {
		return
	}
	if len(r.bad) >= r.tuning.instances {
		clear(r.bad)
	}
	r.bad[label] = err.Error()
	r.cfg.Logger.Warn("mdns registry: a record is not an instance", "name", label+"."+r.typeName.String(), "error", err)
}
