package dns

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/internal/feed"
)

const (
	lookupTimeout = 10 * time.Second
	minPause      = time.Second // between questions: for a short TTL, and after a failure
	maxID         = 128
)

// A service is one that is watched: one question at a time for all its watchers.
type service struct {
	cfg     *Config
	name    string
	records string // the name of its SRV records
	feed    *feed.Feed

	watchers int // under Registry.mu
	cancel   context.CancelFunc
}

// run asks again and again until ctx ends.
func (s *service) run(ctx context.Context) {
	defer s.cancel()
	var answered time.Time
	var complaint string // the last one, which is not made twice
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		records, ttl, err := s.lookup(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.stale(answered, err)
			s.cfg.Logger.Debug("dns registry: no answer", "name", s.records, "error", err)
			backoff = min(max(2*backoff, minPause), max(s.cfg.Interval, MinInterval))
			pause(ctx, backoff/2+rand.N(backoff/2))
			continue
		}
		backoff = 0
		answered = time.Now()
		all, bad := instances(s.name, s.cfg.Scheme, records)
		s.feed.Publish(registry.Snapshot{Instances: all})
		said := ""
		if len(bad) > 0 {
			said = errors.Join(bad...).Error()
		}
		if said != "" && said != complaint {
			s.cfg.Logger.Warn("dns registry: SRV records that are no instances are passed over", "name", s.records, "error", said)
		}
		complaint = said
		pause(ctx, s.rest(ttl))
	}
}

// rest is the time from an answer to the next question.
func (s *service) rest(ttl time.Duration) time.Duration {
	interval := s.cfg.Interval
	if ttl >= 0 && ttl < interval {
		// Not before its end: a cache on the way would give the same answer.
		ttl = min(max(ttl, minPause), interval)
		return ttl + rand.N(max(ttl/10, 1))
	}
	return interval*9/10 + rand.N(interval/5)
}

// lookup asks once. The TTL is negative where it is not known; a name that does not
// exist has no records.
func (s *service) lookup(ctx context.Context) (records []*net.SRV, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	if r, ok := s.cfg.Resolver.(TTLResolver); ok {
		records, ttl, err = r.LookupSRVTTL(ctx, s.records)
	} else {
		ttl = -1
		_, records, err = s.cfg.Resolver.LookupSRV(ctx, "", "", s.records)
	}
	if notFound, ok := errors.AsType[*net.DNSError](err); ok && notFound.IsNotFound {
		return nil, -1, nil
	}
	if err != nil && len(records) > 0 {
		// net.Resolver has taken out records whose names are not valid.
		s.cfg.Logger.Debug("dns registry: records are left out", "name", s.records, "error", err)
		err = nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("dns registry: the SRV records %s of %s: %w", s.records, s.name, err)
	}
	// The better one of two of the same target comes first.
	records = slices.SortedStableFunc(slices.Values(records), func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight))
	})
	return records, ttl, nil
}

// stale marks what is known as such.
func (s *service) stale(answered time.Time, err error) {
	snapshot, _ := s.feed.Latest()
	snapshot.Stale, snapshot.Since, snapshot.Err = true, answered, err
	s.feed.Publish(snapshot)
}

// instanceID makes an ID of what a record says: "host1_example_com-8080".
func instanceID(target string, port uint16) string {
	end := fmt.Sprint("-", port)
	id := strings.ReplaceAll(target, ".", "_")
	plain := strings.IndexFunc(target, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '.')
	}) < 0
	if plain && len(id)+len(end) <= maxID {
		return id + end
	}
	// Two names must not become one.
	sum := sha256.Sum256([]byte(target))
	end = "-" + hex.EncodeToString(sum[:8]) + end
	id = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, id)
	return id[:min(len(id), maxID-len(end))] + end
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
