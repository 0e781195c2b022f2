package selector

import (
	"context"
	"math/rand/v2"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// LocalityConfig says where the client is, and when calls leave its zone.
type LocalityConfig struct {
	// Zone is the client's own, as instances state theirs under [MetadataZone]. Without
	// it Locality is the policy that it was given.
	Zone string
	// MinHealthy is the part of the zone's instances that has to be usable for all
	// calls to stay. Where fewer are, the calls that stay are as many fewer: with 35 %
	// usable of 70 %, every second one. Default: 0.7; values above 1 mean 1, negative
	// ones that one usable instance is enough.
	MinHealthy float64
	// MinInstances is how many usable instances the zone must have: where it has
	// fewer, calls are spread over the instances of all zones. Default: 1.
	MinInstances int
	// MaxInFlight is how many attempts under way from this client the zone takes, for
	// each usable instance, before calls leave it. Default: 64; a negative value means
	// no bound.
	MaxInFlight int
}

// Locality prefers the instances of the client's own zone. policy chooses within the
// zone, and another picker of it among the instances of all other zones. For each call,
// the first rule that fits decides:
//
//  1. If either side has no usable instance, the call goes to the other side.
//  2. If the zone has fewer than MinInstances, the call goes to a side with a chance in
//     proportion to its usable instances.
//  3. If less than MinHealthy of the zone's instances are usable, the call stays with a
//     chance of usable/known/MinHealthy.
//  4. If the zone has MaxInFlight attempts under way for each usable instance, and the
//     other side has not, the call leaves.
//  5. The call stays.
//
// An instance is usable unless it is draining or, where policy is [OutlierEjection],
// ejected: so that belongs inside. A call whose filter allows nobody on its side, or
// nobody who is neither tried nor draining, goes to the other one if that has better.
func Locality(policy Policy, cfg LocalityConfig) Policy {
	if cfg.Zone == "" {
		return policy
	}
	switch {
	case cfg.MinHealthy == 0:
		cfg.MinHealthy = 0.7
	case cfg.MinHealthy > 1:
		cfg.MinHealthy = 1
	}
	if cfg.MinInstances <= 0 {
		cfg.MinInstances = 1
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 64
	}
	return localityPolicy{policy, cfg, rand.IntN}
}

type localityPolicy struct {
	policy Policy
	cfg    LocalityConfig
	draw   intN
}

func (p localityPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	last, _ := prev.(*localityPicker)
	if last == nil {
		last = &localityPicker{local: side{load: new(sideLoad)}, others: side{load: new(sideLoad)}}
	}
	var local, others []registry.Instance
	for i := range instances {
		if instances[i].Metadata[MetadataZone] == p.cfg.Zone {
			local = append(local, instances[i])
		} else {
			others = append(others, instances[i])
		}
	}
	return &localityPicker{
		localityPolicy: p,
		local:          last.local.build(p.policy, local),
		others:         last.others.build(p.policy, others),
		known:          len(instances),
	}
}

type localityPicker struct {
	localityPolicy
	local, others side
	known         int
}

// A side is the instances of the own zone or the rest.
type side struct {
	chooser
	load *sideLoad
}

func (s side) build(policy Policy, instances []registry.Instance) side {
	return side{chooserOf(policy.Build(pickerOf(s.chooser), instances), instances), s.load}
}

// full reports whether the side has its attempts under way.
func (s side) full(usable, limit int) bool {
	return limit > 0 && s.load.Load() >= int64(limit)*int64(usable)
}

// A sideLoad is the number of attempts under way to a side.
type sideLoad struct {
	atomic.Int64
	_ [56]byte // its own cache line
}

func (l *sideLoad) ended(*record, float64) { l.Add(-1) }

func (p *localityPicker) usable() (now, known int) {
	local, _ := p.local.usable()
	others, _ := p.others.usable()
	return local + others, p.known
}

func (p *localityPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, p.known)
}

func (p *localityPicker) choose(ctx context.Context, call Info, rec *record) (*registry.Instance, error) {
	first, second := &p.local, &p.others
	if !p.stays() {
		first, second = second, first
	}
	before := len(rec.parts)
	in, err := first.choose(ctx, call, rec)
	if in == nil || call.avoids(in) > 0 {
		between := len(rec.parts)
		other, otherErr := second.choose(ctx, call, rec)
		if other != nil && (in == nil || call.avoids(other) < call.avoids(in)) {
			rec.withdraw(before, between)
			in, first = other, second
		} else {
			rec.withdraw(between, len(rec.parts))
			if err == nil {
				err = otherErr
			}
		}
	}
	if in == nil {
		return nil, err
	}
	first.load.Add(1)
	rec.tell(first.load, 0)
	return in, nil
}

// stays says whether a call stays in the zone.
func (p *localityPicker) stays() bool {
	local, known := p.local.usable()
	others, _ := p.others.usable()
	switch {
	case others == 0:
		return true
	case local == 0:
		return false
	case local < p.cfg.MinInstances:
		return p.draw(local+others) < local
	case float64(local) < p.cfg.MinHealthy*float64(known):
		if fraction(p.draw) > float64(local)/float64(known)/p.cfg.MinHealthy {
			return false
		}
	}
	return !p.local.full(local, p.cfg.MaxInFlight) || p.others.full(others, p.cfg.MaxInFlight)
}
