package broker

import "context"

// An Interceptor runs around a [Handler], or around the publishing of a message,
// which has the same form: next handles, or sends. It may change the message, and
// return without calling next.
type Interceptor func(next Handler) Handler

// Interceptors are those of a broker, the first one outermost.
type Interceptors struct {
	// Publish run around each message that is published; for an asynchronous one,
	// next returns when it is on its way.
	Publish []Interceptor
	// Handle run around each handler, once for each attempt and before the event
	// is decoded.
	Handle []Interceptor
}

// Intercepted is b with interceptors. Closing it closes b.
func Intercepted(b Broker, is Interceptors) Broker {
	i := &intercepted{Broker: b, is: is}
	i.publish = chain(is.Publish, b.Publish)
	return i
}

type intercepted struct {
	Broker
	is      Interceptors
	publish Handler
}

func (i *intercepted) Publish(ctx context.Context, m *Message) error { return i.publish(ctx, m) }

func (i *intercepted) PublishAsync(ctx context.Context, m *Message, done func(error)) error {
	sent := false
	err := chain(i.is.Publish, func(ctx context.Context, m *Message) error {
		sent = true
		return i.Broker.PublishAsync(ctx, m, done)
	})(ctx, m)
	if err == nil && !sent && done != nil { // an interceptor took it for itself
		done(nil)
	}
	return err
}

func (i *intercepted) Subscribe(ctx context.Context, cfg SubscribeConfig, h Handler) (Subscription, error) {
	return i.Broker.Subscribe(ctx, cfg, chain(i.is.Handle, h))
}

// Healthy is that of the broker inside.
func (i *intercepted) Healthy() error {
	if h, ok := i.Broker.(HealthChecker); ok {
		return h.Healthy()
	}
	return nil
}

func chain(is []Interceptor, h Handler) Handler {
	for n := len(is) - 1; n >= 0; n-- {
		h = is[n](h)
	}
	return h
}
