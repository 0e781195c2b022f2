package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/broker/internal/delivery"
	"github.com/protomicro/micro/runtime/status"
)

const (
	// extendsInAckWait is how often JetStream hears of a message while it waits.
	extendsInAckWait = 3
	// lookEvery is how often a subscription asks how far its group has come, while
	// messages arrive.
	lookEvery = 10 * time.Second
	// reopenTimeout bounds one attempt to find or create the consumer.
	reopenTimeout = 5 * time.Second
	// Pauses between attempts.
	minReopenPause = 100 * time.Millisecond
	maxReopenPause = 5 * time.Second
	// recreateConsumerAfter is how long a consumer is gone before it is created again.
	recreateConsumerAfter = 500 * time.Millisecond
	// memory is how many times MaxInFlight an ordered engine may know: those that it
	// has and those that it has had.
	memory = 2
	// behindFor is how long a stream is taken to be late before it has lost something.
	behindFor = time.Second
)

// An engine handles the messages of one stream, or of what it is until it loses some:
// it knows them by their sequences.
type engine struct {
	*delivery.Engine
	epoch uint64 // of the reader
}

// A subscription reads from one consumer and sees to it that there is one.
type subscription struct {
	broker    *jetStream
	cfg       broker.SubscribeConfig
	what      string // for errors
	engine    atomic.Pointer[engine]
	newEngine func() *delivery.Engine
	reader    *reader
	order     *orderer // nil unless ordered
	sub       *natsgo.Subscription
	ended     chan struct{} // closed when the last message has gone on from receive

	closing  atomic.Bool
	ctx      context.Context // until Close begins
	stop     context.CancelFunc
	last     context.Context // of the engines of streams that are gone
	end      context.CancelFunc
	running  sync.WaitGroup // supervise, orderer
	retired  sync.WaitGroup // those engines
	troubles chan error
	changes  chan struct{} // of the connection

	consumer atomic.Pointer[jetstream.Consumer]
	floor    atomic.Uint64 // up to it the group has settled everything

	rewinding sync.Mutex

	// Of the goroutine that opens: start's, then supervise's.
	stream        string
	streamCreated time.Time
	behind        time.Time // since when the stream has fewer messages than came of it
	looked        uint64    // the reader's count of messages when floor was asked for
	lookedAt      time.Time
	recovered     time.Time
	logged        string // the last failure

	mu        sync.Mutex
	active    bool
	lastError error
}

func newSubscription(b *jetStream, cfg broker.SubscribeConfig, h broker.Handler) *subscription {
	s := &subscription{
		broker: b, cfg: cfg, what: "subscribe to " + cfg.Topic,
		ended: make(chan struct{}), troubles: make(chan error, 1), changes: make(chan struct{}, 1),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.last, s.end = context.WithCancel(context.Background())
	s.newEngine = func() *delivery.Engine {
		return delivery.New(delivery.Config{
			Subscribe:   cfg,
			Handler:     h,
			Redelivers:  true,
			DeadLetter:  b.publish, // its attributes are as they came, complete or not
			ExtendEvery: b.cfg.AckWait / extendsInAckWait,
			Logger:      b.cfg.Logger,
		})
	}
	s.engine.Store(&engine{Engine: s.newEngine()})
	s.reader = newReader(cfg.Concurrency, cfg.MaxInFlight, cfg.Group != "" && !cfg.Ordered)
	s.reader.ordered = cfg.Ordered
	s.reader.pinned = cfg.Ordered && cfg.Group != ""
	s.reader.track = cfg.Ordered || cfg.Group == ""
	s.reader.keepAliveEvery = b.cfg.AckWait / extendsInAckWait
	s.reader.maxBytes = max(requestBytes, int(b.nc.MaxPayload())+roomForHeaders)
	s.reader.inbox = b.nc.NewInbox()
	s.reader.send = func(subject, reply string, body []byte) error {
		if reply == "" {
			return b.nc.Publish(subject, body)
		}
		return b.nc.PublishRequest(subject, reply, body)
	}
	s.reader.trouble = func(err error) {
		select {
		case s.troubles <- err:
		default: // one is enough
		}
	}
	s.reader.deliver = s.deliver
	if cfg.Ordered {
		s.order = &orderer{
			in: make(chan *received, cfg.MaxInFlight), pass: s.deliver, info: s.info, reader: s.reader,
			extendEvery: b.cfg.AckWait / extendsInAckWait, ctx: s.ctx,
			stamps: newStamps(memory * cfg.MaxInFlight),
			rewound: func(last uint64) {
				s.log(slog.LevelWarn, "a stream has lost its last events, and has others in their place", slog.Uint64("last", last))
				s.rewind(last)
			},
		}
		s.reader.deliver = func(d *received) { s.order.in <- d }
	}
	return s
}

// deliver gives a message to the engine. It waits for room.
func (s *subscription) deliver(d *received) {
	e := s.engine.Load()
	if e.epoch != d.epoch { // of a stream that is gone, or it comes again
		d.Release()
		return
	}
	e.Deliver(&d.Delivery)
}

func (s *subscription) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	return (*s.consumer.Load()).Info(ctx)
}

// start returns when the consumer exists.
func (s *subscription) start(ctx context.Context) error {
	b := s.broker
	ctx, cancel := bounded(ctx)
	defer cancel()
	if !b.connected.Load() {
		return b.unconnected(s.what)
	}
	var err error
	for s.stream == "" {
		s.stream, err = b.streamOf(ctx, s.what, s.cfg.Topic)
		if errors.Is(err, errGone) && ctx.Err() == nil {
			sleep(ctx, minReopenPause)
		} else if err != nil {
			return err
		}
	}
	before := b.nc.LastError()
	if s.sub, err = b.nc.Subscribe(s.reader.inbox+".*", s.reader.receive); err != nil {
		return status.Errorf(status.Unavailable, "%s: NATS at %s: %w", s.what, b.where(), err)
	}
	s.sub.SetClosedHandler(func(string) { close(s.ended) })
	if s.order != nil {
		s.running.Go(s.order.run)
	}
	// No more messages come than were asked for.
	if err := s.sub.SetPendingLimits(-1, -1); err != nil {
		return status.Errorf(status.Unavailable, "%s: NATS at %s: %w", s.what, b.where(), err)
	}
	if err := b.flush(ctx, s.what); err != nil {
		return err
	}
	if err := b.forbidden(s.what, s.reader.inbox+".*", before); err != nil {
		return err
	}
	if err := s.open(ctx, true); err != nil {
		return err
	}
	s.setState(true, nil)
	b.watch(s, func(bool) {
		select {
		case s.changes <- struct{}{}:
		default:
		}
	})
	s.running.Go(s.supervise)
	return nil
}

// open finds the consumer, or creates it, and begins to ask it for messages. Where it
// is not the first time, a consumer that is gone is created where the subscription
// was.
func (s *subscription) open(ctx context.Context, first bool) error {
	b := s.broker
	want := b.consumerConfig(s.cfg)
	stream, err := b.js.Stream(ctx, s.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		var name string
		if name, err = b.streamOf(ctx, s.what, s.cfg.Topic); err != nil {
			return err
		}
		s.stream = name
		stream, err = b.js.Stream(ctx, name)
	}
	if err != nil {
		return b.apiError(s.what, err)
	}
	if err := s.see(stream.CachedInfo(), first); err != nil {
		return err
	}
	consumer, created, err := s.findConsumer(ctx, want, first)
	if err != nil {
		return err
	}
	info := consumer.CachedInfo()
	if ds := compareConsumer(info.Config, want); len(ds) > 0 {
		err := b.consumerMismatch(s.what, s.stream, info.Name, ds)
		if created { // by this subscription: the server made something else of it
			if e := b.js.DeleteConsumer(ctx, s.stream, info.Name); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	s.note(info)
	if first {
		s.reader.startAfter(s.floor.Load())
	}
	s.consumer.Store(&consumer)
	s.reader.bind(apiPrefix + "CONSUMER.MSG.NEXT." + s.stream + "." + info.Name)
	return nil
}

// see takes what is known of the stream. One that was created since the last time, or
// has lost its last messages, has or will have others under the same sequences.
func (s *subscription) see(info *jetstream.StreamInfo, first bool) error {
	last, seen := info.State.LastSeq, max(s.floor.Load(), s.reader.seen())
	switch {
	case first:
		s.streamCreated = info.Created
		return nil
	case !info.Created.Equal(s.streamCreated):
		s.log(slog.LevelWarn, "a stream was deleted and created again: its events are read from the first one",
			slog.String("stream", s.stream))
		last = 0
	case last >= seen:
		s.behind = time.Time{}
		return nil
	default:
		// A server that has just become the stream's leader may not know of all yet.
		now := time.Now()
		if s.behind.IsZero() {
			s.behind = now
		}
		if now.Sub(s.behind) < behindFor {
			return status.Errorf(status.Unavailable, "%s: stream %q at %s ends at %d, and %d was delivered",
				s.what, s.stream, s.broker.where(), last, seen)
		}
		s.log(slog.LevelWarn, "a stream has lost its last events: it was restored to an earlier state, perhaps",
			slog.String("stream", s.stream), slog.Uint64("last", last), slog.Uint64("delivered", seen))
	}
	s.streamCreated, s.behind = info.Created, time.Time{}
	s.rewind(last)
	return nil
}

// rewind has a new engine handle what follows after last, which has sequences that the
// older one knows for other messages.
func (s *subscription) rewind(last uint64) {
	s.rewinding.Lock()
	defer s.rewinding.Unlock()
	s.floor.Store(min(s.floor.Load(), last))
	// The engine first: what comes in between is given to neither and comes again.
	old := s.engine.Load()
	s.engine.Store(&engine{Engine: s.newEngine(), epoch: old.epoch + 1})
	s.reader.rewind(last)
	s.retired.Go(func() { _ = old.Close(s.last) }) // the error is that s.last has ended
}

func (s *subscription) findConsumer(ctx context.Context, want jetstream.ConsumerConfig, first bool) (consumer jetstream.Consumer, created bool, err error) {
	b := s.broker
	name := want.Durable
	if known := s.consumer.Load(); s.cfg.Group == "" && known != nil {
		name = (*known).CachedInfo().Name
	}
	if name != "" {
		consumer, err = b.js.Consumer(ctx, s.stream, name)
		switch {
		case err == nil:
			return consumer, false, nil
		case errors.Is(err, jetstream.ErrNotPullConsumer): // as the comparison would say
			return nil, false, status.Errorf(status.FailedPrecondition,
				"%s: consumer %q of stream %q at %s pushes its messages, and the options ask for one that is asked for them (\"nats consumer rm\" has the group start anew; it was not changed)",
				s.what, name, s.stream, b.where())
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, false, b.apiError(s.what, err)
		}
	}
	if !first {
		floor := s.floor.Load()
		if s.cfg.Group == "" {
			floor = s.reader.floor()
		}
		want = startAt(want, floor+1)
		s.log(slog.LevelWarn, "a consumer is gone, and is created again",
			slog.String("stream", s.stream), slog.String("consumer", name), slog.Uint64("start", want.OptStartSeq))
	}
	consumer, err = b.js.CreateConsumer(ctx, s.stream, want)
	if errors.Is(err, jetstream.ErrConsumerExists) { // another member was quicker, with another start
		consumer, err = b.js.Consumer(ctx, s.stream, want.Durable)
		if err == nil {
			return consumer, false, nil
		}
	}
	if err != nil {
		return nil, false, b.apiError(s.what, err)
	}
	return consumer, true, nil
}

// note takes what is known of the consumer.
func (s *subscription) note(info *jetstream.ConsumerInfo) {
	floor := info.AckFloor.Stream
	if info.NumAckPending == 0 {
		floor = max(floor, info.Delivered.Stream)
	}
	s.floor.Store(max(s.floor.Load(), floor))
	s.reader.settledTo(floor)
}

// supervise keeps the subscription going until it is closed.
func (s *subscription) supervise() {
	tick := time.NewTicker(min(s.broker.cfg.AckWait/extendsInAckWait/2, heartbeat))
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case err := <-s.troubles:
			s.recover(err)
		case <-s.changes:
			s.recover(nil)
		case now := <-tick.C:
			if !s.broker.connected.Load() {
				continue
			}
			s.reader.keepAlive(now)
			if s.reader.silent(now) {
				s.recover(errSilent)
			} else if now.Sub(s.lookedAt) >= lookEvery {
				s.look(now)
			}
		}
	}
}

// look asks how far the group has come, in case the consumer is deleted one day, if
// anything has come since the last time.
func (s *subscription) look(now time.Time) {
	s.lookedAt = now
	n := s.reader.messages()
	if n == s.looked {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, infoTimeout)
	defer cancel()
	info, err := s.info(ctx)
	switch {
	case err == nil:
		s.looked = n
		s.note(info)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		s.recover(errConsumerGone)
	}
	// Others are seen by the heartbeats.
}

// recover opens the subscription again. It returns when that has succeeded, or when
// the subscription is closed.
func (s *subscription) recover(cause error) {
	if cause != nil {
		s.fail(cause)
	}
	if errors.Is(cause, errConsumerGone) {
		// The server says so before it has deleted the files, which a new one would
		// share.
		sleep(s.ctx, recreateConsumerAfter)
	}
	if since := time.Since(s.recovered); since < minReopenPause { // not as often as the server answers
		sleep(s.ctx, minReopenPause-since)
	}
	defer func() { s.recovered = time.Now() }()
	for attempt := 0; s.ctx.Err() == nil; attempt++ {
		if !s.broker.connected.Load() {
			s.fail(s.broker.unconnected("subscription to " + s.cfg.Topic))
			select {
			case <-s.ctx.Done():
				return
			case <-s.changes:
			}
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, reopenTimeout)
		err := s.open(ctx, false)
		cancel()
		if err == nil {
			select {
			case <-s.troubles: //nolint:errcheck // it is of the time before
			default:
			}
			s.setState(true, cause)
			return
		}
		if s.ctx.Err() != nil {
			return
		}
		cause = err
		s.fail(err)
		pause := min(minReopenPause<<min(attempt, 10), maxReopenPause)
		s.pause(pause/2 + rand.N(pause))
	}
}

// pause waits for a while, for a change of the connection, or for the end.
func (s *subscription) pause(d time.Duration) {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-s.ctx.Done():
	case <-s.changes:
	case <-wait.C:
	}
}

// sleep waits for a while, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
	case <-wait.C:
	}
}

// fail notes why messages do not arrive, and logs it unless it is known.
func (s *subscription) fail(err error) {
	s.setState(false, err)
	if text := err.Error(); text != s.logged {
		s.logged = text
		s.log(slog.LevelWarn, "events do not arrive", slog.Any("error", err))
	}
}

func (s *subscription) setState(active bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if active && !s.active && s.logged != "" {
		s.logged = ""
		s.log(slog.LevelInfo, "events arrive again")
	}
	s.active = active
	if err != nil {
		s.lastError = err
	}
}

func (s *subscription) log(level slog.Level, text string, attrs ...slog.Attr) {
	s.broker.log(level, text, append(attrs, slog.String("topic", s.cfg.Topic), slog.String("group", s.cfg.Group))...)
}

func (s *subscription) State() broker.SubscriptionState {
	s.mu.Lock()
	state := broker.SubscriptionState{Active: s.active, LastError: s.lastError}
	s.mu.Unlock()
	switch {
	case s.closing.Load():
		state.Active, state.LastError = false, broker.ErrClosed
	case !s.broker.connected.Load():
		state.Active, state.LastError = false, s.broker.unconnected("subscription to "+s.cfg.Topic)
	}
	return state
}

func (s *subscription) Close(ctx context.Context) error {
	if !s.closing.CompareAndSwap(false, true) {
		return nil
	}
	b := s.broker
	b.unwatch(s)
	s.stop()
	s.reader.stop()
	draining := b.connected.Load() && s.sub.Drain() == nil
	if !draining {
		_ = s.sub.Unsubscribe() // fails only when it has ended already
	}
	engine := s.engine.Load()
	err := engine.Close(ctx)
	s.end()
	s.endReceiving(ctx)
	if last := s.engine.Load(); last != engine { // of a stream that was gone at this moment
		_ = last.Close(ctx) // nothing was delivered to it
	}
	s.retired.Wait()
	b.subs.remove(s)
	if err == nil {
		err = s.leave(ctx)
	}
	return err
}

// endReceiving waits until what had come is given back.
func (s *subscription) endReceiving(ctx context.Context) {
	select {
	case <-s.ended:
	case <-ctx.Done():
		_ = s.sub.Unsubscribe()
		<-s.ended // soon: no message waits for the engine any more
	}
	if s.order != nil {
		close(s.order.in)
	}
	s.running.Wait()
}

// leave has the server hear of all that was settled, and of the end of the
// subscription.
func (s *subscription) leave(ctx context.Context) error {
	b := s.broker
	what := "close the subscription to " + s.cfg.Topic
	var err error = b.unconnected(what)
	if b.connected.Load() {
		err = b.flush(ctx, what)
	}
	if err != nil {
		return fmt.Errorf("%w (the server may not know of the last events that were handled, and delivers them again)", err)
	}
	consumer := s.consumer.Load()
	if consumer == nil {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	name := (*consumer).CachedInfo().Name
	switch {
	case s.cfg.Group == "":
		err := b.js.DeleteConsumer(ctx, s.stream, name)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			s.log(slog.LevelInfo, "the consumer of a subscription that is closed was not deleted; JetStream will do so",
				slog.String("consumer", name), slog.Any("error", err))
		}
	case s.reader.active(): // another member follows at once instead of after some time
		m, err := b.nc.RequestWithContext(ctx, apiPrefix+"CONSUMER.UNPIN."+s.stream+"."+name, []byte(`{"group":"`+pinnedGroup+`"}`))
		if err == nil && strings.Contains(string(m.Data), `"error"`) {
			err = errors.New(string(m.Data))
		}
		if err != nil {
			s.log(slog.LevelInfo, "the active member of an ordered group is closed, and the next one follows later than it could",
				slog.String("consumer", name), slog.Any("error", err))
		}
	}
	return nil
}

// abandon undoes what start did before it failed.
func (s *subscription) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	s.closing.Store(true)
	s.stop()
	s.reader.stop()
	if s.sub != nil {
		_ = s.sub.Unsubscribe() // fails only when it has ended already
	} else {
		close(s.ended)
	}
	_ = s.engine.Load().Close(ctx) // nothing was delivered
	s.end()
	if s.sub != nil {
		<-s.ended
		if s.order != nil {
			close(s.order.in)
		}
	}
	s.running.Wait()
}
