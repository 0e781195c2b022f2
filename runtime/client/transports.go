package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/selector"
	"github.com/protomicro/micro/runtime/transport"
)

// transports are those of a client, the preferred one first.
type transports []transport.Transport

func newTransports(first transport.Transport, fallbacks []transport.Transport) (transports, error) {
	ts := transports{first}
	for i, t := range fallbacks {
		if t == nil {
			return nil, fmt.Errorf("client: Config.Fallbacks[%d] is nil", i)
		}
		if ts.of(t.Scheme()) != nil {
			return nil, fmt.Errorf("client: Config.Fallbacks[%d] has the scheme %q, as another transport has (an address says by its scheme which one it is for)",
				i, t.Scheme())
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// of is the one with a scheme, or nil.
func (ts transports) of(scheme string) transport.Transport {
	for _, t := range ts {
		if t.Scheme() == scheme {
			return t
		}
	}
	return nil
}

// String names them in errors.
func (ts transports) String() string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = fmt.Sprintf("%q", t.Scheme())
	}
	if len(names) == 1 {
		return "transport " + names[0]
	}
	return "transports " + strings.Join(names, ", ")
}

// to is a connection to one address. A service by its name is asked of all transports.
func (ts transports) to(addr transport.Address) *lazyConn {
	if _, byName := addr.Service(); byName {
		all := make(ways, len(ts))
		for i, t := range ts {
			all[i] = wayTo{t, addr}
		}
		return ts.conn(all)
	}
	t := ts.of(addr.Scheme())
	if t == nil {
		t = ts[0] // which says what it takes
	}
	return &lazyConn{transport: t, addr: addr}
}

// appendTo adds the ways to an instance, in the order of ts, to w. Of several addresses
// with one scheme, the first counts.
func (ts transports) appendTo(w ways, in *registry.Instance) ways {
	for _, t := range ts {
		if addr, ok := addressFor(in, t.Scheme()); ok {
			w = append(w, wayTo{t, addr})
		}
	}
	return w
}

// addressFor is the first of an instance's addresses that has the scheme.
func addressFor(in *registry.Instance, scheme string) (transport.Address, bool) {
	for _, a := range in.Addresses {
		if addr := transport.Address(a); addr.Scheme() == scheme {
			return addr, true
		}
	}
	return "", false
}

// healthy are those that can carry messages, as far as they know.
func (ts transports) healthy() transports {
	for i := range ts {
		if unhealthy(ts[i]) == nil {
			continue
		}
		up := append(transports(nil), ts[:i]...)
		for _, t := range ts[i+1:] {
			if unhealthy(t) == nil {
				up = append(up, t)
			}
		}
		return up
	}
	return ts
}

// unhealthy says why a transport cannot carry messages now, or is nil.
func unhealthy(t transport.Transport) error {
	if h, ok := t.(transport.HealthChecker); ok {
		return h.Healthy()
	}
	return nil
}

// lead reports whether one of them leads to an instance.
func (ts transports) lead(in *registry.Instance) bool {
	for _, t := range ts {
		if _, ok := addressFor(in, t.Scheme()); ok {
			return true
		}
	}
	return false
}

// pickReachable is pick among the instances to which a healthy transport leads, while
// there are others: those would cost an attempt each, or the wait for a connection. It
// is false where that leaves nothing to choose from.
func (r *registryRoute) pickReachable(ctx context.Context, m *membership, info selector.Info) (target, bool) {
	up := r.ways.healthy()
	if len(up) == 0 || len(up) == len(r.ways) {
		return target{}, false
	}
	allowed := info.Filter
	info.Filter = func(in *registry.Instance) bool { return up.lead(in) && (allowed == nil || allowed(in)) }
	in, attempt, err := m.picker.Pick(ctx, info)
	if err != nil {
		return target{}, false
	}
	return target{id: in.ID, conn: m.conns[in.ID], attempt: attempt}, true
}
