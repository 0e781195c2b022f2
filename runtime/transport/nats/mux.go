package nats

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
)

const muxShards = 16

// A party is one side of a stream, as the mux sees it. Its methods are called from
// the subscription's goroutine, or the one that watches the connection, and do not
// wait.
type party interface {
	// receive takes a message that was sent to the party's subject.
	receive(m *natsgo.Msg)
	// lose ends the stream for want of a connection.
	lose(err *status.Error)
}

// A mux is where frames arrive: one subscription for all the streams that a client,
// or a listener, has. The last word of a frame's subject is the stream's token.
//
// Tokens are random, so that a late frame of a stream that has ended, even one of an
// earlier process under the same instance, meets no other stream.
type mux struct {
	prefix string // with its dot
	sub    *natsgo.Subscription
	count  *atomic.Int64 // of parties, here and in muxes that share the limit
	shards [muxShards]muxShard
}

type muxShard struct {
	mu      sync.RWMutex
	parties map[uint64]party
	_       [32]byte // keeps the locks off each other's cache line
}

// newMux makes a mux for the subjects PREFIX.TOKEN. The caller sets sub.
func newMux(prefix string) *mux {
	x := &mux{prefix: prefix + ".", count: new(atomic.Int64)}
	for i := range x.shards {
		x.shards[i].parties = make(map[uint64]party)
	}
	return x
}

// enter gives p a token, unless limit streams are open already.
func (x *mux) enter(p party, limit int) (token uint64, ok bool) {
	if x.count.Add(1) > int64(limit) {
		x.count.Add(-1)
		return 0, false
	}
	for {
		token = rand.Uint64()
		s := &x.shards[token%muxShards]
		s.mu.Lock()
		_, taken := s.parties[token]
		if !taken {
			s.parties[token] = p
		}
		s.mu.Unlock()
		if !taken {
			return token, true
		}
	}
}

// leave frees a token. Doing it again does nothing.
func (x *mux) leave(token uint64) {
	s := &x.shards[token%muxShards]
	s.mu.Lock()
	_, in := s.parties[token]
	delete(s.parties, token)
	s.mu.Unlock()
	if in {
		x.count.Add(-1)
	}
}

// subject is where the peer sends to the party with a token.
func (x *mux) subject(token uint64) string {
	var room [128]byte
	return string(strconv.AppendUint(append(room[:0], x.prefix...), token, tokenBase))
}

// find is the party that m is for. It is nil when its stream has ended.
func (x *mux) find(m *natsgo.Msg) party {
	tail, ok := strings.CutPrefix(m.Subject, x.prefix)
	if !ok {
		return nil
	}
	token, err := strconv.ParseUint(tail, tokenBase, 64)
	if err != nil {
		return nil
	}
	s := &x.shards[token%muxShards]
	s.mu.RLock()
	p := s.parties[token]
	s.mu.RUnlock()
	return p
}

// loseAll ends all streams.
func (x *mux) loseAll(err *status.Error) {
	for _, p := range x.all() {
		p.lose(err)
	}
}

func (x *mux) all() []party {
	var all []party
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		for _, p := range s.parties {
			all = append(all, p)
		}
		s.mu.RUnlock()
	}
	return all
}

// len is the number of streams.
func (x *mux) len() int { return int(x.count.Load()) }
