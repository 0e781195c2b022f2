package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/protomicro/micro/internal/gen/event/v1"
	"github.com/protomicro/micro/internal/gen/event/v1/eventv1micro"
	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/nats"
)

// Event is an event of [EventSize] bytes.
func Event(site string) (*eventv1.Sampled, error) {
	event := &eventv1.Sampled{Site: site}
	for n := EventSize; n > 0; n-- {
		event.Payload = payload(n)
		if proto.Size(event) == EventSize {
			return event, nil
		}
	}
	return nil, fmt.Errorf("no payload makes an event of %d bytes", EventSize)
}

// EventHeaders are those that a typed event has.
func EventHeaders() (natsgo.Header, error) {
	m := &broker.Message{Topic: "samples.headers", Type: eventv1micro.SampledTopic.Type}
	if err := m.Complete(); err != nil {
		return nil, err
	}
	h := make(natsgo.Header)
	for name, value := range m.Headers() {
		h[name] = []string{value}
	}
	return h, nil
}

// MaxUnconfirmed and MaxUnacknowledged bound JetStream's two sides, the same for all
// that can have more than one.
const (
	MaxUnconfirmed    = 4096
	MaxUnacknowledged = 1024
)

// A pair of sides over one connection each.
type subscriber func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, all *closers) error

type publisher func(ctx context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error

// events is a peer for events: where the two sides have their connections, and how the
// publisher hears of what has arrived, is the same for all.
func events(name, about string, subscribe subscriber, publish publisher) Peer {
	return Peer{
		Name:  name,
		About: about,
		NATS:  true,
		Serve: func(ctx context.Context, s Setup) (*Server, error) {
			var all closers
			nc, err := connectNATS(s)
			if err != nil {
				return nil, err
			}
			all.add(nc.Close)
			t := &tally{nc: nc, subject: s.subject("arrived"), timed: s.Timed}
			if err := errors.Join(subscribe(ctx, s, nc, t, &all), nc.Flush()); err != nil {
				all.close()
				return nil, err
			}
			return &Server{Close: all.close}, nil
		},
		Dial: func(ctx context.Context, s Setup) (*Client, error) {
			nc, err := connectNATS(s)
			if err != nil {
				return nil, err
			}
			event, err := Event(s.Space)
			if err != nil {
				return nil, err
			}
			c := &Client{Window: newWindow(), Close: nc.Close, Publishers: 1}
			if s.Timed {
				err = timeEvents(s, nc, event, c)
			} else {
				_, err = c.Window.follow(nc, s.subject("arrived"))
			}
			if err := errors.Join(err, publish(ctx, s, nc, event, c)); err != nil {
				nc.Close()
				return nil, err
			}
			return c, nil
		},
	}
}

// timeEvents makes c.PublishTimed of c.Publish. Both processes are on one machine, so
// that the time when an event was published can be told in it: it is in the first bytes of
// its payload.
func timeEvents(s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
	ages := make(chan int64, 1)
	if _, err := nc.Subscribe(s.subject("arrived"), func(m *natsgo.Msg) {
		age, err := strconv.ParseInt(string(m.Data), 10, 64)
		if err != nil {
			return // the event's turn ends without an age
		}
		select {
		case ages <- age:
		default: // of an event that nobody waits for any more
		}
	}); err != nil {
		return err
	}
	c.PublishTimed = func(ctx context.Context) (time.Duration, error) {
		binary.LittleEndian.PutUint64(event.Payload, uint64(time.Now().UnixNano()))
		if err := c.Publish(ctx); err != nil {
			return 0, err
		}
		select {
		case age := <-ages:
			return time.Duration(age), nil
		case <-ctx.Done():
			return 0, fmt.Errorf("an event has not arrived: %w", ctx.Err())
		}
	}
	return nc.Flush()
}

// handle is what a subscriber does with an event.
func handle(event *eventv1.Sampled, t *tally) {
	if !t.timed {
		t.add()
		return
	}
	if p := event.GetPayload(); len(p) >= 8 {
		t.tell(max(time.Now().UnixNano()-int64(binary.LittleEndian.Uint64(p)), 0))
	}
}

// decode is what a subscriber does with the bytes of an event.
func decode(body []byte, t *tally) error {
	event := new(eventv1.Sampled)
	err := proto.Unmarshal(body, event)
	handle(event, t)
	return err
}

// RawCore is publish and subscribe of nats.go, of events that are encoded and decoded;
// with the headers of a typed event, if it is told to.
func RawCore(headers bool) Peer {
	name, about := "nats.go", "raw publish and subscribe of encoded events"
	if headers {
		name, about = "nats.go+headers", "the same with the headers that a typed event has"
	}
	return events(name, about,
		func(_ context.Context, s Setup, nc *natsgo.Conn, t *tally, _ *closers) error {
			sub, err := nc.Subscribe(s.subject("event"), func(m *natsgo.Msg) { _ = decode(m.Data, t) }) // of our own making
			if err != nil {
				return err
			}
			return sub.SetPendingLimits(-1, -1)
		},
		func(_ context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			h, err := EventHeaders()
			if err != nil {
				return err
			}
			if !headers {
				h = nil
			}
			subject := s.subject("event")
			c.Publish = func(context.Context) error {
				body, err := proto.Marshal(event)
				if err != nil {
					return err
				}
				return nc.PublishMsg(&natsgo.Msg{Subject: subject, Header: h, Data: body})
			}
			c.Flush = nc.FlushWithContext
			return nil
		})
}

// MicroCore is this project's typed events over core NATS.
func MicroCore(concurrency int, bare bool) Peer {
	name, about := "micro", "typed events, one handler at a time, as with nats.go"
	if concurrency > 1 {
		name, about = "micro/"+strconv.Itoa(concurrency), "typed events, "+strconv.Itoa(concurrency)+" handlers at a time (the default)"
	}
	if bare {
		name, about = "micro/bare", "typed events without attributes, one handler at a time"
	}
	open := func(nc *natsgo.Conn) (broker.Broker, error) { return nats.NewCore(nc, nats.CoreConfig{Bare: bare}) }
	return events(name, about,
		func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, all *closers) error {
			b, err := open(nc)
			if err != nil {
				return err
			}
			return subscribeMicro(ctx, s, b, t, all, broker.WithConcurrency(concurrency))
		},
		func(_ context.Context, _ Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			b, err := open(nc)
			if err != nil {
				return err
			}
			c.Publish = func(ctx context.Context) error { return eventv1micro.SampledTopic.Publish(ctx, b, event) }
			closeWith(c, b)
			return nil
		})
}

func subscribeMicro(ctx context.Context, s Setup, b broker.Broker, t *tally, all *closers, opts ...broker.SubscribeOption) error {
	all.add(func() { closeBroker(b) })
	_, err := eventv1micro.SampledTopic.Subscribe(ctx, b, eventv1micro.SampledFilter{Site: s.Space},
		func(_ context.Context, event *eventv1.Sampled, _ *broker.Message) error {
			handle(event, t)
			return nil
		}, opts...)
	return err
}

func closeBroker(b broker.Broker) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_ = b.Close(ctx) // the process is about to end
}

func closeWith(c *Client, b broker.Broker) {
	c.Flush = b.Flush
	closeConn := c.Close
	c.Close = func() { closeBroker(b); closeConn() }
}

// WatermillCore is Watermill over core NATS, with one subscriber, whose handler encodes
// and decodes as the others.
func WatermillCore() Peer {
	js := wmnats.JetStreamConfig{Disabled: true}
	return events("watermill", "Watermill over core NATS, one subscriber",
		func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, _ *closers) error {
			return subscribeWatermill(ctx, s, nc, t, wmnats.SubscriberSubscriptionConfig{JetStream: js})
		},
		func(_ context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			c.Flush = nc.FlushWithContext
			return publishWatermill(s, nc, event, c, js)
		})
}

func subscribeWatermill(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, cfg wmnats.SubscriberSubscriptionConfig) error {
	sub, err := wmnats.NewSubscriberWithNatsConn(nc, cfg, watermill.NopLogger{})
	if err != nil {
		return err
	}
	messages, err := sub.Subscribe(ctx, s.subject("event"))
	if err != nil {
		return err
	}
	for range max(cfg.SubscribersCount, 1) {
		go func() { // ends with ctx
			for m := range messages {
				if decode(m.Payload, t) == nil {
					m.Ack()
				}
			}
		}()
	}
	return nil
}

func publishWatermill(s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client, js wmnats.JetStreamConfig) error {
	pub, err := wmnats.NewPublisherWithNatsConn(nc, wmnats.PublisherPublishConfig{
		Marshaler: &wmnats.NATSMarshaler{}, SubjectCalculator: wmnats.DefaultSubjectCalculator, JetStream: js,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	topic := s.subject("event")
	c.Publish = func(context.Context) error {
		body, err := proto.Marshal(event)
		if err != nil {
			return err
		}
		return pub.Publish(topic, message.NewMessage(watermill.NewUUID(), body))
	}
	return nil
}

// createStream makes the JetStream stream of a peer.
func createStream(ctx context.Context, s Setup, nc *natsgo.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(MaxUnconfirmed))
	if err != nil {
		return nil, err
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: s.Space, Subjects: []string{s.subject("event")}})
	return js, err
}

// RawJetStream is asynchronous publishing and consuming of nats.go; with the headers of
// a typed event and what makes it stored once, if it is told to.
func RawJetStream(headers bool) Peer {
	name, about := "nats.go", "raw asynchronous publish and consume of encoded events"
	if headers {
		name, about = "nats.go+headers", "the same with the headers that a typed event has, Nats-Msg-Id included"
	}
	return events(name, about,
		func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, all *closers) error {
			js, err := createStream(ctx, s, nc)
			if err != nil {
				return err
			}
			consumer, err := js.CreateConsumer(ctx, s.Space, jetstream.ConsumerConfig{
				AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: MaxUnacknowledged,
			})
			if err != nil {
				return err
			}
			consuming, err := consumer.Consume(func(m jetstream.Msg) {
				if decode(m.Data(), t) == nil {
					_ = m.Ack() // what is not acknowledged comes again
				}
			})
			if err != nil {
				return err
			}
			all.add(consuming.Stop)
			return nil
		},
		func(ctx context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			h, err := EventHeaders()
			if err != nil {
				return err
			}
			js, err := createStream(ctx, s, nc)
			if err != nil {
				return err
			}
			c.Publish = publishRaw(js, s.subject("event"), event, h, headers)
			c.Flush = func(ctx context.Context) error { return allPublished(ctx, js) }
			return nil
		})
}

// publishRaw publishes asynchronously; one goroutine at a time calls it.
func publishRaw(js jetstream.JetStream, subject string, event *eventv1.Sampled, h natsgo.Header, headers bool) func(context.Context) error {
	id := 0
	return func(context.Context) error {
		body, err := proto.Marshal(event)
		if err != nil {
			return err
		}
		m := &natsgo.Msg{Subject: subject, Data: body}
		if headers {
			m.Header = make(natsgo.Header, len(h)+1)
			for k, v := range h {
				m.Header[k] = v
			}
			id++
			m.Header[natsgo.MsgIdHdr] = []string{eventv1micro.SampledTopic.Type + "/" + strconv.Itoa(id)}
		}
		_, err = js.PublishMsgAsync(m)
		return err
	}
}

func allPublished(ctx context.Context, js jetstream.JetStream) error {
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d events are not confirmed: %w", js.PublishAsyncPending(), ctx.Err())
	}
}

// MicroJetStream is this project's typed events over JetStream.
func MicroJetStream() Peer {
	open := func(ctx context.Context, s Setup, nc *natsgo.Conn) (broker.Broker, error) {
		return nats.NewJetStream(ctx, nc, nats.JetStreamConfig{
			Streams:    []nats.StreamConfig{{Name: s.Space, Subjects: []string{"samples." + s.Space}}},
			MaxPending: MaxUnconfirmed,
		})
	}
	return events("micro", "typed events, published asynchronously, 16 handlers at a time (the default)",
		func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, all *closers) error {
			b, err := open(ctx, s, nc)
			if err != nil {
				return err
			}
			return subscribeMicro(ctx, s, b, t, all, broker.WithMaxInFlight(MaxUnacknowledged))
		},
		func(ctx context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			b, err := open(ctx, s, nc)
			if err != nil {
				return err
			}
			c.Publish = func(ctx context.Context) error { return eventv1micro.SampledTopic.PublishAsync(ctx, b, event, nil) }
			closeWith(c, b)
			return nil
		})
}

// WatermillJetStream is Watermill over JetStream. It publishes synchronously, so that
// it needs many goroutines where the others need one; as many subscribe.
func WatermillJetStream(goroutines int) Peer {
	name, about := "watermill", "Watermill over JetStream, one publisher, which waits for each event, and one subscriber"
	if goroutines > 1 {
		name = "watermill/" + strconv.Itoa(goroutines)
		about = fmt.Sprintf("the same with %d goroutines that publish and %d that subscribe", goroutines, goroutines)
	}
	const group = "bench"
	return events(name, about,
		func(ctx context.Context, s Setup, nc *natsgo.Conn, t *tally, _ *closers) error {
			if _, err := createStream(ctx, s, nc); err != nil {
				return err
			}
			return subscribeWatermill(ctx, s, nc, t, wmnats.SubscriberSubscriptionConfig{
				SubscribersCount: goroutines,
				QueueGroupPrefix: group,
				AckWaitTimeout:   time.Minute,
				JetStream: wmnats.JetStreamConfig{
					AckAsync: true, DurablePrefix: group,
					SubscribeOptions: []natsgo.SubOpt{natsgo.DeliverAll(), natsgo.AckExplicit(), natsgo.MaxAckPending(MaxUnacknowledged), natsgo.ManualAck()},
				},
			})
		},
		func(_ context.Context, s Setup, nc *natsgo.Conn, event *eventv1.Sampled, c *Client) error {
			c.Publishers = goroutines
			c.Flush = func(context.Context) error { return nil } // each was waited for
			return publishWatermill(s, nc, event, c, wmnats.JetStreamConfig{TrackMsgId: true})
		})
}
