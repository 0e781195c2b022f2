package peer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/protobuf/proto"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
)

// Frames are the request and the response of a typed call as they cross the wire, whose
// sizes the raw ones have.
func Frames(size int) (request, response []byte, err error) {
	c := protorpc.New()
	tag := codec.Tag{Seq: 1}
	request, err = c.AppendRequest(nil, &codec.Request{
		Tag: tag, Procedure: echov1micro.EchoEchoProcedure, Timeout: client.DefaultTimeout, Metadata: metadata.MD{},
	}, &echov1.EchoRequest{Body: payload(size)})
	if err != nil {
		return nil, nil, err
	}
	response, err = c.AppendResponse(nil, &codec.Response{Tag: tag}, &echov1.EchoResponse{Body: payload(size)})
	return request, response, err
}

// connectNATS is one side's connection.
func connectNATS(s Setup) (*natsgo.Conn, error) {
	nc, err := natsgo.Connect(s.NATS, natsgo.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", s.NATS, err)
	}
	return nc, nil
}

// Raw is nats.go alone: requests and replies of the same sizes as those of typed calls,
// without encoding, and publish and subscribe for streams.
func Raw() Peer {
	return Peer{
		Name:  "nats.go",
		About: "raw request and reply, or publish and subscribe, with bytes of the same size",
		NATS:  true,
		Serve: serveRaw,
		Dial:  dialRaw,
	}
}

// subject is one of this peer's own.
func (s Setup) subject(name string) string { return "bench." + s.Space + "." + name }

func (s Setup) callSubject(service int) string { return s.subject("call" + strconv.Itoa(service)) }

func (s Setup) callSubjects() []string {
	subjects := make([]string, s.Services)
	for i := range subjects {
		subjects[i] = s.callSubject(i)
	}
	return subjects
}

func serveRaw(_ context.Context, s Setup) (*Server, error) {
	_, response, err := Frames(s.Payload)
	if err != nil {
		return nil, err
	}
	nc, err := connectNATS(s)
	if err != nil {
		return nil, err
	}
	subscribe := func(subject, queue string, h natsgo.MsgHandler) {
		sub, e := nc.QueueSubscribe(subject, queue, h)
		if e == nil {
			e = sub.SetPendingLimits(-1, -1)
		}
		err = errors.Join(err, e)
	}
	respond := func(m *natsgo.Msg) { _ = m.Respond(response) } // a caller that misses it says so
	for service := range s.Services {
		for range s.Instances { // all in one group, of which NATS chooses
			subscribe(s.callSubject(service), "bench", respond)
		}
	}
	up := &tally{nc: nc, subject: s.subject("up.arrived")}
	subscribe(s.subject("up"), "bench", func(*natsgo.Msg) { up.add() })
	subscribe(s.subject("chat"), "bench", func(m *natsgo.Msg) { _ = m.Respond(m.Data) })
	body := payload(StreamMessage)
	subscribe(s.subject("down"), "bench", func(m *natsgo.Msg) {
		n, e := strconv.Atoi(string(m.Data))
		if e != nil {
			return
		}
		go func() { _ = rawSend(context.Background(), nc, m.Reply, m.Reply+".arrived", body, n) }()
	})
	if err := errors.Join(err, nc.Flush()); err != nil {
		nc.Close()
		return nil, err
	}
	return &Server{Close: nc.Close}, nil
}

// streamTimeout bounds how long a stream may take.
const streamTimeout = 2 * time.Minute

// rawSend publishes n messages and waits until they have arrived.
func rawSend(ctx context.Context, nc *natsgo.Conn, subject, arrived string, body []byte, n int) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	w := newWindow()
	sub, err := w.follow(nc, arrived)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	return rawPublish(ctx, w, 0, n, func() error { return nc.Publish(subject, body) })
}

func rawPublish(ctx context.Context, w *Window, before int64, n int, publish func() error) error {
	for i := range n {
		if err := w.Room(ctx, int64(i)+before); err != nil {
			return err
		}
		if err := publish(); err != nil {
			return err
		}
	}
	return w.Wait(ctx, before+int64(n))
}

func dialRaw(_ context.Context, s Setup) (*Client, error) {
	request, response, err := Frames(s.Payload)
	if err != nil {
		return nil, err
	}
	nc, err := connectNATS(s)
	if err != nil {
		return nil, err
	}
	up, body := newWindow(), payload(StreamMessage)
	if _, err := up.follow(nc, s.subject("up.arrived")); err != nil {
		nc.Close()
		return nil, err
	}
	subjects := s.callSubjects()
	return &Client{
		Call: func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			m, err := nc.RequestWithContext(ctx, subjects[n%len(subjects)], request)
			if err != nil {
				return err
			}
			return checkSize(len(response), len(m.Data))
		},
		Stream: func(ctx context.Context, kind Kind, n int) error {
			switch kind {
			case Up:
				return rawPublish(ctx, up, up.Arrived(), n, func() error { return nc.Publish(s.subject("up"), body) })
			case Down:
				return rawDown(ctx, nc, s.subject("down"), n)
			}
			return rawChat(ctx, nc, s.subject("chat"), n, body)
		},
		Open: func(ctx context.Context) (func() error, error) {
			inbox := nc.NewInbox()
			sub, err := nc.SubscribeSync(inbox)
			if err != nil {
				return nil, err
			}
			turn := func() error {
				if err := nc.PublishRequest(s.subject("chat"), inbox, body); err != nil {
					return err
				}
				m, err := sub.NextMsgWithContext(ctx)
				if err != nil {
					return err
				}
				return checkSize(len(body), len(m.Data))
			}
			return turn, turn()
		},
		Close: nc.Close,
	}, nil
}

func rawDown(ctx context.Context, nc *natsgo.Conn, subject string, n int) error {
	inbox := nc.NewInbox()
	t := &tally{nc: nc, subject: inbox + ".arrived"}
	done := make(chan struct{})
	sub, err := nc.Subscribe(inbox, func(*natsgo.Msg) {
		if t.add(); t.got.Load() == int64(n) {
			close(done)
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := errors.Join(sub.SetPendingLimits(-1, -1), nc.PublishRequest(subject, inbox, strconv.AppendInt(nil, int64(n), 10))); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return sum(t.got.Load()).check(n)
	}
}

func rawChat(ctx context.Context, nc *natsgo.Conn, subject string, n int, body []byte) error {
	inbox, w, got := nc.NewInbox(), newWindow(), int64(0)
	sub, err := nc.Subscribe(inbox, func(*natsgo.Msg) {
		if got++; got%Batch == 0 {
			w.set(got)
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	return rawPublish(ctx, w, 0, n, func() error { return nc.PublishRequest(subject, inbox, body) })
}

// NATSMicro is the package micro of nats.go, with the same bytes as [Raw].
func NATSMicro() Peer {
	return Peer{
		Name:  "nats.go/micro",
		About: "the micro package of nats.go, with the same bytes",
		NATS:  true,
		Serve: func(_ context.Context, s Setup) (*Server, error) {
			_, response, err := Frames(s.Payload)
			if err != nil {
				return nil, err
			}
			return serveMicro(s, func(r micro.Request) { _ = r.Respond(response) }) // a caller that misses it says so
		},
		Dial: func(ctx context.Context, s Setup) (*Client, error) {
			c, err := dialRaw(ctx, s)
			if err != nil {
				return nil, err
			}
			return &Client{Call: c.Call, Close: c.Close}, nil
		},
	}
}

// NATSMicroProto is the package micro of nats.go with the same messages as typed calls,
// which client and handler encode and decode as a program does that has no generated code
// for it.
func NATSMicroProto() Peer {
	return Peer{
		Name:  "nats.go/micro+proto",
		About: "the micro package of nats.go, with the same messages in protobuf",
		NATS:  true,
		Serve: func(_ context.Context, s Setup) (*Server, error) {
			return serveMicro(s, func(r micro.Request) {
				req := new(echov1.EchoRequest)
				if err := proto.Unmarshal(r.Data(), req); err != nil {
					_ = r.Error("400", err.Error(), nil) // as below
					return
				}
				res, err := proto.Marshal(answer(req))
				if err != nil {
					_ = r.Error("500", err.Error(), nil)
					return
				}
				_ = r.Respond(res) // a caller that misses it says so
			})
		},
		Dial: func(_ context.Context, s Setup) (*Client, error) {
			nc, err := connectNATS(s)
			if err != nil {
				return nil, err
			}
			subjects := s.callSubjects()
			req := request(s)
			return &Client{
				Call: func(ctx context.Context, n int) error {
					ctx, cancel := context.WithTimeout(ctx, callTimeout)
					defer cancel()
					body, err := proto.Marshal(req)
					if err != nil {
						return err
					}
					m, err := nc.RequestWithContext(ctx, subjects[n%len(subjects)], body)
					if err != nil {
						return err
					}
					if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
						return fmt.Errorf("%s: %s", code, m.Header.Get(micro.ErrorHeader))
					}
					res := new(echov1.EchoResponse)
					if err := proto.Unmarshal(m.Data, res); err != nil {
						return err
					}
					return check(s, res)
				},
				Close: nc.Close,
			}, nil
		},
	}
}

func serveMicro(s Setup, handle micro.HandlerFunc) (*Server, error) {
	nc, err := connectNATS(s)
	if err != nil {
		return nil, err
	}
	for service := range s.Services {
		for range s.Instances {
			_, err := micro.AddService(nc, micro.Config{
				Name: "bench-" + s.Space + "-" + strconv.Itoa(service), Version: "1.0.0",
				Endpoint: &micro.EndpointConfig{Subject: s.callSubject(service), Handler: handle},
			})
			if err != nil {
				nc.Close()
				return nil, err
			}
		}
	}
	if err := nc.Flush(); err != nil {
		nc.Close()
		return nil, err
	}
	return &Server{Close: nc.Close}, nil
}
