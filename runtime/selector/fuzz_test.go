package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

// compositions are the policies whose properties are tested, alone and around each
// other.
var compositions = []struct {
	name  string
	build func(draw intN, clock clock) Policy
	// An ejected instance is left for a draining one.
	ejects bool
}{
	{"Random", func(draw intN, _ clock) Policy { return randomPolicy{draw} }, false},
	{"RoundRobin", func(draw intN, _ clock) Policy { return roundRobinPolicy{draw} }, false},
	{"LeastConnections", func(draw intN, _ clock) Policy { return leastConnectionsPolicy{draw} }, false},
	{"PeakEWMA", func(draw intN, clock clock) Policy { return peakEWMA(PeakEWMAConfig{}, draw, clock) }, false},
	{"WeightedRandom", func(draw intN, _ clock) Policy { return weightedRandomPolicy{draw} }, false},
	{"WeightedRoundRobin", func(draw intN, _ clock) Policy { return weightedRoundRobinPolicy{draw} }, false},
	{"ConsistentHash", func(draw intN, _ clock) Policy {
		return consistentHash(ConsistentHashConfig{MinInFlight: 1}, draw)
	}, false},
	{"Locality(RoundRobin)", func(draw intN, _ clock) Policy {
		return locality(roundRobinPolicy{draw}, LocalityConfig{Zone: "a", MaxInFlight: 2}, draw)
	}, false},
	{"Subset(LeastConnections)", func(draw intN, _ clock) Policy {
		return Subset(leastConnectionsPolicy{draw}, SubsetConfig{Client: "c", Size: 3})
	}, false},
	{"SlowStart(PeakEWMA)", func(draw intN, clock clock) Policy {
		return slowStart(peakEWMA(PeakEWMAConfig{}, draw, clock), SlowStartConfig{}, clock)
	}, false},
	{"OutlierEjection(ConsistentHash)", func(draw intN, clock clock) Policy {
		return outlierEjection(consistentHash(ConsistentHashConfig{}, draw), OutlierEjectionConfig{ConsecutiveFaults: 2, MaxEjected: 0.5}, draw, clock)
	}, true},
	{"OutlierEjection(elsewhere)", func(draw intN, clock clock) Policy {
		return outlierEjection(fromElsewhere{leastConnectionsPolicy{draw}}, OutlierEjectionConfig{ConsecutiveFaults: 1, MaxEjected: 1}, draw, clock)
	}, true},
	{"Locality(OutlierEjection(SlowStart(PeakEWMA)))", func(draw intN, clock clock) Policy {
		p := slowStart(peakEWMA(PeakEWMAConfig{}, draw, clock), SlowStartConfig{}, clock)
		return locality(outlierEjection(p, OutlierEjectionConfig{ConsecutiveFaults: 2, MaxEjected: 0.3}, draw, clock),
			LocalityConfig{Zone: "a", MaxInFlight: 3}, draw)
	}, true},
	{"SlowStart(Subset(Locality(OutlierEjection(LeastConnections))))", func(draw intN, clock clock) Policy {
		p := outlierEjection(leastConnectionsPolicy{draw}, OutlierEjectionConfig{ConsecutiveFaults: 2}, draw, clock)
		return slowStart(Subset(locality(p, LocalityConfig{Zone: "b", MinInstances: 2}, draw),
			SubsetConfig{Client: "c", Size: 4}), SlowStartConfig{}, clock)
	}, true},
}

// byteSource deals out the bytes of an input; after its end all are 0.
type byteSource []byte

func (s *byteSource) next() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// fuzzedInstances are up to n instances of all kinds.
func fuzzedInstances(n int, s *byteSource) []registry.Instance {
	mask, kinds := s.next(), s.next()
	var instances []registry.Instance
	for i, in := range numbered(n) {
		if mask>>(i%8)&1 == 0 {
			continue
		}
		kind := int(kinds)*7 + i
		in.Metadata = map[string]string{MetadataZone: []string{"a", "b", ""}[kind%3]}
		if kind%5 == 0 {
			in.Metadata[MetadataState] = StateDraining
		}
		if w := kind % 4; w > 0 {
			in.Metadata[MetadataWeight] = []string{"0", "1", "7.5"}[w-1]
		}
		instances = append(instances, in)
	}
	return instances
}

var fuzzedResults = []error{
	nil, nil, nil, errSimulated, errLate, context.Canceled,
	status.Remote(status.NotFound, "", nil), status.Remote(status.ResourceExhausted, "", nil),
}

// checkProperties drives a policy as input says, and checks after each step what holds
// for all of them:
//
//   - What is picked is one of the instances, and allowed by the call's filter.
//   - Something is picked wherever one is allowed, and otherwise the error is
//     ErrNoInstances.
//   - No instance that was tried is picked while there are others, and no draining one.
//   - Once all attempts have ended, nothing counts as under way.
func checkProperties(t *testing.T, which int, input []byte) {
	c := compositions[which%len(compositions)]
	s := byteSource(input)
	n := []int{1, 3, 8, 80}[s.next()%4]
	now := &manual{}
	policy := c.build(seeded(uint64(s.next())), now.clock)
	instances := fuzzedInstances(n, &s)
	pickers := []Picker{policy.Build(nil, instances)}
	members := [][]registry.Instance{instances}
	var under []Attempt
	for step := 0; len(s) > 0; step++ {
		switch s.next() % 8 {
		case 0:
			instances = fuzzedInstances(n, &s)
			members = append(members, instances)
			pickers = append(pickers, policy.Build(pickers[len(pickers)-1], instances))
		case 1:
			now.now += time.Duration(s.next()) * 200 * time.Millisecond
		case 2, 3:
			if len(under) > 0 {
				i := int(s.next()) % len(under)
				e := s.next()
				r := Result{Err: fuzzedResults[int(e)%len(fuzzedResults)], Elapsed: time.Duration(e) * 10 * time.Millisecond, NotStarted: e > 200}
				under[i].Done(r)
				if e%16 == 0 {
					under[i].Done(r) // which does nothing
				}
				under = slices.Delete(under, i, i+1)
			}
		default:
			at := len(pickers) - 1
			if flags := s.next(); flags%16 == 0 {
				at = int(flags/16) % len(pickers) // an old one, still in use
			}
			call := Info{Key: fmt.Sprint(s.next() % 4)}
			if flags := s.next(); flags%2 == 0 {
				mask := s.next()
				call.Filter = func(in *registry.Instance) bool { return mask>>(in.ID[3]%8)&1 == 1 }
				call.Spec = &rpc.Spec{Kind: rpc.Kind(flags / 2 % 4)}
			}
			for range s.next() % 4 {
				call.Tried = append(call.Tried, fmt.Sprintf("i%03d", int(s.next())%n))
			}
			in, attempt, err := pickers[at].Pick(context.Background(), call)
			best := 1 << 30
			for i := range members[at] {
				if m := &members[at][i]; call.allows(m) {
					best = min(best, call.avoids(m))
				}
			}
			if err != nil {
				if best < 1<<30 {
					t.Fatalf("%s, step %d: nothing was picked, although some are allowed: %v", c.name, step, err)
				}
				if status.CodeOf(err) != status.Unavailable || in != nil || attempt != (Attempt{}) {
					t.Fatalf("%s, step %d: %v, %v, %v", c.name, step, in, attempt, err)
				}
				continue
			}
			under = append(under, attempt)
			if !slices.ContainsFunc(members[at], in.Equal) {
				t.Fatalf("%s, step %d: picked %v, which is none of the instances", c.name, step, in)
			}
			if !call.allows(in) {
				t.Fatalf("%s, step %d: picked %s, which the filter does not allow", c.name, step, in.ID)
			}
			got := call.avoids(in)
			if c.ejects {
				got, best = got/levels, best/levels
			}
			if got > best {
				t.Fatalf("%s, step %d: picked %s, which was tried (%v) or is draining, although there are others", c.name, step, in.ID, call.Tried)
			}
		}
	}
	for _, a := range under {
		a.Done(Result{})
	}
	for i, p := range pickers {
		if n := underWay(p); n != 0 {
			t.Fatalf("%s: %d attempts count as under way in picker %d after all have ended", c.name, n, i)
		}
	}
}

func TestProperties(t *testing.T) {
	runs := 60
	if testing.Short() || raced {
		runs = 10
	}
	for which, c := range compositions {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(which), 1))
			for run := range runs {
				input := make([]byte, 40+r.IntN(1500))
				for i := range input {
					input[i] = byte(r.Uint32())
				}
				input[0] = byte(run)
				checkProperties(t, which, input)
			}
		})
	}
}

func FuzzProperties(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 7))
	for which := range compositions {
		input := make([]byte, 300)
		for i := range input {
			input[i] = byte(r.Uint32())
		}
		f.Add(uint8(which), input)
	}
	f.Fuzz(func(t *testing.T, which uint8, input []byte) {
		checkProperties(t, int(which), input[:min(len(input), 4096)])
	})
}
