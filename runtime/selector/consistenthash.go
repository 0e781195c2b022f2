package selector

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"

	"github.com/protomicro/micro/runtime/registry"
)

// ConsistentHashConfig says what the key of a call is, and how much one instance takes.
type ConsistentHashConfig struct {
	// Key is the key of a call, empty for none. Default: Info.Key. [FieldKey] reads it
	// from the request.
	Key func(Info) string
	// MaxLoad bounds the attempts under way from this client to one instance, as a
	// multiple of the mean over all instances. Default: 1.25; values below
	// 1 mean 1, and +Inf no bound.
	MaxLoad float64
	// MinInFlight is how many attempts under way an instance is given whatever the mean
	// is, so that calls with the same key stay together while there are few calls.
	// Default: 4; 1 or a negative value means none beyond the first.
	MinInFlight int
}

// ConsistentHash sends calls with the same key to the same instance, from all clients
// that know the same instances. When an instance joins or leaves, only the keys that it
// gets or had move: about one n-th of them. When an instance is at its bound, a call
// goes on to the next one on the ring that is not; for each key that is another.
// A call without a key goes to any instance.
//
// The hash is not secret: who chooses keys can choose their instance, up to the bound.
// Pick takes the same time for any number of instances, unless a call's filter or the
// bound rules out most of them: then it looks at each once.
func ConsistentHash(cfg ConsistentHashConfig) Policy {
	if cfg.Key == nil {
		cfg.Key = func(call Info) string { return call.Key }
	}
	switch {
	case cfg.MaxLoad == 0 || math.IsNaN(cfg.MaxLoad):
		cfg.MaxLoad = 1.25
	case cfg.MaxLoad < 1:
		cfg.MaxLoad = 1
	}
	switch {
	case cfg.MinInFlight == 0:
		cfg.MinInFlight = 4
	case cfg.MinInFlight < 1:
		cfg.MinInFlight = 1
	}
	return consistentHashPolicy{cfg, rand.IntN}
}

type consistentHashPolicy struct {
	cfg  ConsistentHashConfig
	draw intN
}

func (p consistentHashPolicy) Build(prev Picker, instances []registry.Instance) Picker {
	next := &consistentHashPicker{members: newMembers(instances, byState), policy: p, total: new(atomic.Int64)}
	last, _ := prev.(*consistentHashPicker)
	if last == nil {
		last = &consistentHashPicker{}
	} else {
		next.total = last.total
	}
	next.loads, next.byID = carry(last.byID, next.list,
		func(l *hashLoad) bool { return l.underWay.Load() > 0 },
		func() *hashLoad { return &hashLoad{total: next.total} })
	next.hashes = make([]uint64, len(next.list))
	for i := range next.list {
		next.hashes[i] = hash(next.list[i].ID)
	}
	next.ring = newRing(next.list[:next.active])
	return next
}

type consistentHashPicker struct {
	members
	policy consistentHashPolicy
	ring   ring
	hashes []uint64 // of the ID of each of list
	loads  []*hashLoad
	byID   map[string]*hashLoad
	total  *atomic.Int64 // attempts under way to all
}

// A hashLoad is the number of attempts under way to one instance.
type hashLoad struct {
	underWay atomic.Int64
	total    *atomic.Int64
	_        [48]byte // its own cache line
}

func (l *hashLoad) ended(*record, float64) {
	l.underWay.Add(-1)
	l.total.Add(-1)
}

func (p *consistentHashPicker) Pick(ctx context.Context, call Info) (*registry.Instance, Attempt, error) {
	return pickThrough(ctx, p, call, len(p.list))
}

func (p *consistentHashPicker) choose(_ context.Context, call Info, rec *record) (*registry.Instance, error) {
	var i int
	if key := p.policy.cfg.Key(call); key == "" {
		i = p.random(&call, p.policy.draw)
	} else {
		i = p.byKey(hash(key), &call)
	}
	if i < 0 {
		return nil, nil
	}
	l := p.loads[i]
	l.underWay.Add(1)
	l.total.Add(1)
	rec.tell(l, 0)
	return &p.list[i], nil
}

// maxSteps bounds the points of the ring that are tried in turn. At the default bound
// at least every fifth instance has room.
const maxSteps = 64

// byKey is the first instance from the key's place on that suits the call and has
// room. Where there is none soon, each instance that suits has a rank for each key:
// the first one with room is it, or else the least busy one.
func (p *consistentHashPicker) byKey(h uint64, call *Info) int {
	bound := p.bound()
	if len(p.ring.points) > 0 {
		free, at := call.free(), p.ring.find(h)
		for range min(maxSteps, len(p.ring.points)) {
			i := p.ring.instance(at)
			if p.loads[i].underWay.Load() < bound && (free || p.suits(i, call)) {
				return i
			}
			if at++; at == len(p.ring.points) {
				at = 0
			}
		}
	}
	return p.scan(call, p.policy.draw, func(i int) float64 {
		if n := p.loads[i].underWay.Load(); n >= bound {
			return float64(n)
		}
		return -float64(mix(h^p.hashes[i])>>11) / (1 << 53)
	})
}

// bound is how many attempts under way keep an instance from one more.
func (p *consistentHashPicker) bound() int64 {
	mean := float64(p.total.Load()+1) / float64(max(1, p.active))
	limit := math.Ceil(p.policy.cfg.MaxLoad * mean)
	return int64(min(math.MaxInt32, max(limit, float64(p.policy.cfg.MinInFlight))))
}
