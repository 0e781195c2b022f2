package http

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// Service is the name under which subscribers are in the registry.
const Service = "micro.v1.Broker"

// subscriptionPrefix begins the keys of an instance's metadata that are subscriptions;
// the values are TOPIC, or TOPIC and GROUP with a space in between.
const subscriptionPrefix = "subscription-"

// A listed subscription is one that the registry has.
type listed struct {
	id      string // INSTANCE/NAME
	topic   string
	group   string
	address string // HOST:PORT
}

// listedBy are the subscriptions of an instance that can be posted to. Others than this
// package's may have registered it.
func listedBy(in registry.Instance, scheme string) (all []listed, err error) {
	address := ""
	for _, a := range in.Addresses {
		if rest, ok := strings.CutPrefix(a, scheme+":"); ok {
			if host, port, err := net.SplitHostPort(rest); err == nil && host != "" && port != "" && !strings.ContainsAny(rest, "/?#@ ") {
				address = rest
				break
			}
		}
	}
	for key, value := range in.Metadata {
		name, ok := strings.CutPrefix(key, subscriptionPrefix)
		if !ok {
			continue
		}
		if address == "" {
			return nil, fmt.Errorf("it has no address %s:HOST:PORT, and this broker posts to no others", scheme)
		}
		topic, group, _ := strings.Cut(value, " ")
		if _, e := (broker.SubscribeConfig{Topic: topic, Group: group}).WithDefaults(); e != nil {
			err = fmt.Errorf("%s: %w", key, e)
			continue
		}
		all = append(all, listed{id: in.ID + "/" + name, topic: topic, group: group, address: address})
	}
	return all, err
}

// instance is this process as the registry is to have it. The turn is held.
func (b *Broker) instance() registry.Instance {
	in := registry.Instance{
		Service:   Service,
		ID:        b.id,
		Addresses: []string{b.listener.address},
		Metadata:  make(map[string]string),
	}
	for _, s := range b.inbox.listed() {
		value := s.cfg.Topic
		if s.cfg.Group != "" {
			value += " " + s.cfg.Group
		}
		in.Metadata[subscriptionPrefix+s.name] = value
	}
	return in
}

// register brings the registry up to date. The turn is held.
func (b *Broker) register(ctx context.Context, what string) error {
	in := b.instance()
	if len(in.Metadata) == 0 {
		if b.registration == nil {
			return nil
		}
		err := b.registration.Close(ctx)
		b.setRegistration(nil)
		return err
	}
	if err := in.Check(); err != nil {
		return status.Errorf(status.ResourceExhausted,
			"%s: the %d subscriptions of this process are too much for one registration: %w (wildcards in topics need fewer, and another broker has a registration of its own)",
			what, len(in.Metadata), err)
	}
	reg, err := b.cfg.Registry.Register(ctx, in)
	if err != nil {
		if e := ctx.Err(); e != nil {
			return status.Errorf(status.CodeOf(e), "%s: %w", what, err)
		}
		return status.Errorf(status.Unavailable, "%s: %w", what, err)
	}
	b.setRegistration(reg)
	return nil
}

func (b *Broker) setRegistration(reg registry.Registration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.registration = reg
}

// registered is why publishers cannot know of this process, or nil.
func (b *Broker) registered() error {
	b.mu.Lock()
	reg := b.registration
	b.mu.Unlock()
	if reg == nil {
		return status.New(status.Unavailable, "this process is not in the registry")
	}
	state := reg.State()
	switch {
	case state.Registered:
		return nil
	case state.LastError == nil:
		return status.New(status.Unavailable, "this process is not in the registry now")
	}
	return status.Errorf(status.Unavailable, "this process is not in the registry: %w", state.LastError)
}

// deregisterTimeout bounds how long closing waits for the registry: publishers hear
// from the process itself that a subscription has ended.
const deregisterTimeout = 5 * time.Second

// deregister takes out of the registry what the inbox does not list any more.
func (b *Broker) deregister(ctx context.Context, what string) {
	ctx, cancel := context.WithTimeout(ctx, deregisterTimeout)
	defer cancel()
	err := b.takeTurn(ctx)
	if err == nil {
		err = b.register(ctx, what)
		b.releaseTurn()
	}
	if err != nil {
		b.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the registry still lists subscriptions that are closed: publishers that ask are told so",
			slog.String("instance", b.id), slog.Any("error", err))
	}
}

// takeTurn waits until nobody else changes the registration.
func (b *Broker) takeTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *Broker) releaseTurn() { <-b.turn }
