package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

var (
	seedCount = flag.Int("seeds", 300, "how many seeds TestSimulation runs, from 1 on")
	oneSeed   = flag.Uint64("seed", 0, "the one seed that TestSimulation runs, and tells of")
)

// TestSimulation runs one stream for each seed over links that lose, delay, repeat and
// reorder frames, with users that send, read, wait, cancel and give up as the seed has
// it. Whatever happens, both sides end, and what was received is what was sent from
// the beginning on, and all of it unless an error says otherwise.
//
//	go test ./runtime/transport/internal/stream -run Simulation -seeds 20000
//	go test ./runtime/transport/internal/stream -run Simulation -seed 17 -v
func TestSimulation(t *testing.T) {
	first, last := uint64(1), uint64(*seedCount)
	if *oneSeed != 0 {
		first, last = *oneSeed, *oneSeed
	}
	ends := make(map[string]int)
	for seed := first; seed <= last; seed++ {
		synctest.Test(t, func(t *testing.T) {
			sim := newSimulation(seed)
			if *oneSeed != 0 {
				sim.log = t.Logf
			}
			if err := sim.run(); err != nil {
				t.Errorf("seed %d: %v\n%s\nreplay: go test ./runtime/transport/internal/stream -run Simulation -seed %d -v",
					seed, err, sim, seed)
			}
			ends[sim.clientEnd()]++
		})
		if t.Failed() {
			return
		}
	}
	var all []string
	for end, n := range ends {
		all = append(all, fmt.Sprintf("%s: %d", end, n))
	}
	slices.Sort(all)
	t.Logf("how the clients' streams ended: %s", strings.Join(all, ", "))
	if *oneSeed == 0 && *seedCount >= 300 {
		for _, end := range []string{"answer", "canceled", "deadline_exceeded", "unavailable", "data_loss", "aborted"} {
			if ends[end] == 0 {
				t.Errorf("no stream ended with %s: the simulation does not reach it", end)
			}
		}
	}
}

// faults are what a link does, in chances of one frame.
type faults struct {
	lose, repeat, reorder float64
	delay                 time.Duration // at most
	deafAfter             int           // frames after which it loses all; 0 is never
	loseFirst             byte          // the kind of which it loses the first frame; 0 is none
}

// A simLink carries frames in one direction. What it does depends on the seed and on
// the frames before, and not on the other direction.
type simLink struct {
	faults
	rng      *rand.Rand
	maxFrame int
	name     string
	sim      *simulation
	deliver  func([]byte)

	mu     sync.Mutex
	frames int
	flight []inFlight
	latest time.Time // when the last frame that keeps its place arrives
	ended  int
	err    *status.Error
}

type inFlight struct {
	due   time.Time
	frame []byte
}

func (l *simLink) MaxFrame() int { return l.maxFrame }

func (l *simLink) Send(frame []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames++
	fate := "sent"
	due := time.Now().Add(time.Duration(l.rng.Int64N(int64(l.delay) + 1)))
	lost := l.rng.Float64() < l.lose || l.deafAfter > 0 && l.frames > l.deafAfter
	if l.loseFirst != 0 && frame[0] == l.loseFirst {
		l.loseFirst, lost = 0, true
	}
	repeated, reordered := l.rng.Float64() < l.repeat, l.rng.Float64() < l.reorder
	switch {
	case lost:
		fate = "lost"
	case reordered:
		fate = "out of order"
	default:
		if due.Before(l.latest) {
			due = l.latest
		}
		l.latest = due
	}
	l.sim.log("%v %s %s %.40x", time.Since(l.sim.began), l.name, fate, frame)
	if lost {
		return nil
	}
	l.fly(inFlight{due, bytes.Clone(frame)})
	if repeated {
		l.fly(inFlight{due.Add(time.Duration(l.rng.Int64N(int64(10*l.delay) + 1))), bytes.Clone(frame)})
	}
	return nil
}

// fly puts a frame behind those that are due before or with it.
func (l *simLink) fly(f inFlight) {
	i := len(l.flight)
	for i > 0 && l.flight[i-1].due.After(f.due) {
		i--
	}
	l.flight = slices.Insert(l.flight, i, f)
}

// arrived takes the next frame that is due.
func (l *simLink) arrived() ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.flight) == 0 || l.flight[0].due.After(time.Now()) {
		return nil, false
	}
	f := l.flight[0]
	l.flight = l.flight[1:]
	return f.frame, true
}

func (l *simLink) Ended(err *status.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended++
	l.err = err
}

func (l *simLink) state() (ended int, err *status.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended, l.err
}

// An actor does one thing after the other, when the simulation says so.
type actor struct {
	name string
	todo func() (more bool)
	turn chan struct{}

	mu   sync.Mutex
	busy bool
	done bool
}

func (a *actor) loop() {
	for range a.turn {
		more := a.todo()
		a.mu.Lock()
		a.busy, a.done = false, !more
		a.mu.Unlock()
	}
}

func (a *actor) ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.busy && !a.done
}

func (a *actor) finished() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

// A flow is what one side sent and the other received.
type flow struct {
	total    int // how many messages there are to send
	largest  int
	sent     int   // Send returned nil
	sendErr  error // the first that it returned
	received int
	recvErr  error
}

type simulation struct {
	seed   uint64
	rng    *rand.Rand
	log    func(format string, args ...any)
	began  time.Time
	up     *simLink // client to listener
	down   *simLink
	client *Client
	server *Server

	answerAfter int  // messages that the listener reads before it answers; -1 is all
	halfClose   bool // after its messages; otherwise the client closes the stream
	giveUpAt    int  // step
	giveUp      string
	ctx         context.Context
	cancel      context.CancelFunc

	head     []byte // that the listener sends, nil for none
	headed   bool   // it has tried to
	headSent bool

	quiet            time.Time // nobody does anything until then
	upFlow, downFlow flow
	accepted         bool
	answered         bool
	faulty           bool // frames may be lost or out of order
	wrong            error
	actors           []*actor

	mu      sync.Mutex
	started []func() // goroutines that have not run yet
}

func newSimulation(seed uint64) *simulation {
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(values ...float64) float64 { return values[rng.IntN(len(values))] }
	sim := &simulation{seed: seed, rng: rng, log: func(string, ...any) {}, began: time.Now(), giveUpAt: -1}
	f := faults{
		lose:    pick(0, 0, 0, 0, 0.002, 0.01, 0.1),
		repeat:  pick(0, 0, 0.05, 0.5),
		reorder: pick(0, 0, 0, 0, 0.01, 0.2),
		delay:   []time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second}[rng.IntN(4)],
	}
	sim.faulty = f.lose > 0 || f.reorder > 0
	frame := MinFrame + rng.IntN(2000)
	link := func(name string, stream uint64) *simLink {
		l := &simLink{faults: f, rng: rand.New(rand.NewPCG(seed, stream)), maxFrame: frame, name: name, sim: sim}
		if rng.IntN(8) == 0 {
			l.deafAfter = 1 + rng.IntN(60)
			sim.faulty = true
		}
		if rng.IntN(8) == 0 {
			l.loseFirst = byte(kindAccept + rng.IntN(kindHead))
			sim.faulty = true
		}
		return l
	}
	sim.up, sim.down = link("up", 1), link("down", 2)

	set := func() *Set {
		set := NewSet(Config{
			WindowMessages: 1 + rng.IntN(20),
			WindowBytes:    1 + rng.IntN(8000),
			MaxMessage:     8_000,
			Heartbeat:      []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}[rng.IntN(3)],
			Pack:           []int{0, 200, 4000}[rng.IntN(3)],
		})
		set.start = func(f func()) { // it runs at a step of its own
			sim.mu.Lock()
			defer sim.mu.Unlock()
			sim.started = append(sim.started, f)
		}
		return set
	}
	sim.ctx, sim.cancel = context.WithCancel(context.Background())
	if rng.IntN(6) == 0 {
		sim.cancel()
		sim.ctx, sim.cancel = context.WithTimeout(context.Background(), time.Duration(rng.Int64N(int64(40*time.Second))))
	}
	sim.client = set().NewClient(sim.ctx, sim.up, "the listener")
	server, err := set().NewServer(sim.down, sim.client.Offer(), "the client")
	if err != nil {
		panic(err)
	}
	sim.server = server
	sim.up.deliver, sim.down.deliver = server.Deliver, sim.client.Deliver

	sim.answerAfter = -1
	if rng.IntN(3) == 0 {
		sim.answerAfter = rng.IntN(30)
	}
	sim.halfClose = rng.IntN(10) > 0
	if rng.IntN(3) == 0 {
		sim.giveUpAt = rng.IntN(300)
		sim.giveUp = []string{"cancel", "close", "shutdown"}[rng.IntN(3)]
	}
	for _, f := range []*flow{&sim.upFlow, &sim.downFlow} {
		f.total = rng.IntN(50)
		f.largest = []int{1, 300, 8_000}[rng.IntN(3)]
	}
	if rng.IntN(2) == 0 {
		sim.head = (&flow{largest: []int{1, 300, 8_000}[rng.IntN(3)]}).body(1 + rng.IntN(6))
	}
	sim.addActors()
	return sim
}

func (sim *simulation) String() string {
	return fmt.Sprintf("up: %+v, %+v\ndown: %+v, %+v\nfrom step %d: %s; answer after %d; half-close: %v; answered: %v",
		sim.up.faults, sim.upFlow, sim.down.faults, sim.downFlow, sim.giveUpAt, sim.giveUp, sim.answerAfter, sim.halfClose, sim.answered)
}

// body is a message of a flow.
func (f *flow) body(i int) []byte {
	size := 0
	if i%7 != 0 {
		size = int(uint32(i)*2654435761%uint32(f.largest)) + 1
	}
	b := make([]byte, size)
	var number [4]byte
	binary.BigEndian.PutUint32(number[:], uint32(i))
	for j := range b {
		b[j] = number[j%4] + byte(j/4)
	}
	return b
}

func (f *flow) send(send func([]byte) error) bool {
	if f.sent == f.total {
		return false
	}
	if err := send(f.body(f.sent)); err != nil {
		f.sendErr = err
		return false
	}
	f.sent++
	return true
}

func (sim *simulation) recv(f *flow, recv func() ([]byte, error)) bool {
	body, err := recv()
	if err != nil {
		f.recvErr = err
		return false
	}
	if want := f.body(f.received); !bytes.Equal(body, want) {
		sim.wrong = fmt.Errorf("message %d has %d bytes %.20x, want %d bytes %.20x", f.received, len(body), body, len(want), want)
		return false
	}
	f.received++
	return true
}

// checkHead is for when a message is here, or the answer: then the head is, too.
func (sim *simulation) checkHead() {
	var want []byte
	if sim.headSent {
		want = sim.head
	}
	if got := sim.client.Head(); !bytes.Equal(got, want) {
		sim.wrong = fmt.Errorf("the head has %d bytes %.20x, want %d bytes %.20x", len(got), got, len(want), want)
	}
}

func (sim *simulation) addActors() {
	add := func(name string, todo func() bool) *actor {
		a := &actor{name: name, todo: todo, turn: make(chan struct{}, 1)}
		sim.actors = append(sim.actors, a)
		return a
	}
	opened := false
	add("client writes", func() bool {
		if !opened {
			opened = true
			return sim.client.Opened() == nil
		}
		if sim.upFlow.send(sim.client.Send) {
			return true
		}
		switch {
		case sim.upFlow.sendErr != nil:
		case sim.halfClose:
			_ = sim.client.CloseSend()
		default:
			_ = sim.client.Close()
		}
		return false
	})
	add("client reads", func() bool {
		more := sim.recv(&sim.downFlow, sim.client.Recv)
		if more {
			sim.checkHead()
		}
		return more
	})
	writer := add("listener writes", func() bool {
		if !sim.accepted {
			sim.accepted = true
			sim.server.Accept()
			return true
		}
		if sim.head != nil && !sim.headed {
			sim.headed = true
			sim.headSent = sim.server.SendHead(sim.head) == nil
			return true
		}
		return sim.downFlow.send(sim.server.Send)
	})
	reader := add("listener reads", func() bool {
		if sim.answerAfter >= 0 && sim.upFlow.received >= sim.answerAfter {
			return false
		}
		return sim.recv(&sim.upFlow, sim.server.Recv)
	})
	add("listener answers", func() bool {
		if !writer.finished() || !reader.finished() {
			return true
		}
		if sim.rng.IntN(10) == 0 {
			sim.server.Abandon(status.Aborted, "the simulation's")
		} else {
			sim.answered = sim.server.Reply(transport.Message{Body: sim.downFlow.body(77), Header: transport.Header{"k": {"v"}}}) == nil
		}
		return false
	})
}

// run is one step after the other: an actor's turn, a frame that arrives, or time.
func (sim *simulation) run() error {
	defer sim.cancel()
	for _, a := range sim.actors {
		go a.loop()
		defer close(a.turn)
	}
	progress, since := uint64(0), time.Now()
	for step := 0; ; step++ {
		synctest.Wait()
		if err := sim.check(); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if sim.over() {
			break
		}
		if now := sim.progress(); now != progress {
			progress, since = now, time.Now()
		}
		if time.Since(since) > time.Hour {
			for _, f := range sim.started {
				f()
			}
			sim.client.Fail(status.New(status.Internal, "")) // lets the actors end
			sim.server.Fail(status.New(status.Internal, ""))
			synctest.Wait()
			return fmt.Errorf("nothing has happened for an hour, and the stream has not ended on both sides")
		}
		if sim.giveUpAt >= 0 && step >= sim.giveUpAt {
			sim.log("%v %s", time.Since(sim.began), sim.giveUp)
			switch sim.giveUp {
			case "cancel":
				sim.cancel()
			case "close":
				_ = sim.client.Close()
			case "shutdown":
				sim.server.Fail(status.New(status.Unavailable, "the simulation shuts down"))
			}
			sim.giveUpAt = -1
			continue
		}
		sim.step()
	}
	return sim.verdict()
}

// progress is how many frames with a number have arrived.
func (sim *simulation) progress() uint64 {
	var n uint64
	for _, s := range []*side{&sim.client.side, &sim.server.side} {
		s.mu.Lock()
		n += s.next
		s.mu.Unlock()
	}
	return n
}

func (sim *simulation) step() {
	var choices []func()
	for _, a := range sim.actors {
		if a.ready() && time.Now().After(sim.quiet) {
			choices = append(choices, func() {
				a.mu.Lock()
				a.busy = true
				a.mu.Unlock()
				a.turn <- struct{}{}
			})
		}
	}
	for _, l := range []*simLink{sim.up, sim.down} {
		l.mu.Lock()
		due := len(l.flight) > 0 && !l.flight[0].due.After(time.Now())
		l.mu.Unlock()
		if due {
			choices = append(choices, func() {
				if frame, ok := l.arrived(); ok {
					l.deliver(frame)
				}
			})
		}
	}
	sim.mu.Lock()
	waiting := len(sim.started) > 0
	sim.mu.Unlock()
	if waiting {
		choices = append(choices, func() {
			sim.mu.Lock()
			f := sim.started[0]
			sim.started = sim.started[1:]
			sim.mu.Unlock()
			f()
		})
	}
	if len(choices) == 0 || sim.rng.IntN(10) == 0 {
		if sim.rng.IntN(50) == 0 && sim.accepted {
			sim.quiet = time.Now().Add(time.Duration(sim.rng.Int64N(int64(time.Minute))))
		}
		time.Sleep(time.Duration(1 + sim.rng.Int64N(int64(200*time.Millisecond))))
		return
	}
	choices[sim.rng.IntN(len(choices))]()
}

func (sim *simulation) over() bool {
	for _, a := range sim.actors {
		if !a.finished() {
			return false
		}
	}
	up, _ := sim.up.state()
	down, _ := sim.down.state()
	sim.mu.Lock()
	defer sim.mu.Unlock()
	return up > 0 && down > 0 && len(sim.started) == 0
}

// check is what holds at any time: the bounds.
func (sim *simulation) check() error {
	for name, s := range map[string]*side{"client": &sim.client.side, "listener": &sim.server.side} {
		s.mu.Lock()
		var held, bytes uint64
		for i := range s.queue.count {
			it := s.queue.items[(s.queue.first+i)%len(s.queue.items)]
			held += it.owed
			bytes += uint64(len(it.body))
			if it.long != nil {
				bytes += uint64(it.long.size)
			}
		}
		held += s.partialOwed
		count, partial, window := uint64(s.queue.count), 0, s.set.terms.window
		if s.partial != nil {
			partial = s.partial.size
		}
		if !s.answering {
			bytes += uint64(partial)
		}
		largest := s.set.terms.maxMessage
		s.mu.Unlock()
		if bytes > window.bytes+largest {
			return fmt.Errorf("the %s holds %d bytes, its window is %+v and the largest message %d", name, bytes, window, largest)
		}
		if count > window.messages || held > window.bytes || partial > int(largest)+1 {
			return fmt.Errorf("the %s holds %d messages of %d bytes and %d bytes of another, its window is %+v", name, count, held, partial, window)
		}
	}
	for _, l := range []*simLink{sim.up, sim.down} {
		if n, _ := l.state(); n > 1 {
			return fmt.Errorf("%s: told %d times of the end", l.name, n)
		}
	}
	return nil
}

// verdict is what holds at the end.
func (sim *simulation) verdict() error {
	if sim.wrong != nil {
		return sim.wrong
	}
	_, clientErr := sim.up.state()
	_, serverErr := sim.down.state()
	if set := sim.client.side.set; set.Len() != 0 {
		return fmt.Errorf("the client's set has %d streams", set.Len())
	}
	for name, f := range map[string]*flow{"up": &sim.upFlow, "down": &sim.downFlow} {
		if f.received > f.sent+1 { // the one whose Send failed may have arrived
			return fmt.Errorf("%s: %d messages received, %d sent", name, f.received, f.sent)
		}
		if errors.Is(f.recvErr, io.EOF) && f.received != f.sent {
			return fmt.Errorf("%s: the reader was told the end after %d of %d messages", name, f.received, f.sent)
		}
	}
	if errors.Is(sim.downFlow.recvErr, io.EOF) {
		if sim.checkHead(); sim.wrong != nil {
			return sim.wrong
		}
		answer := sim.client.Answer()
		if !sim.answered || !bytes.Equal(answer.Body, sim.downFlow.body(77)) || answer.Header.Get("k") != "v" {
			return fmt.Errorf("the client has another answer: %v", answer)
		}
	}
	for name, err := range map[string]*status.Error{"client": clientErr, "listener": serverErr} {
		if err == nil {
			continue
		}
		switch err.Code() {
		case status.DataLoss, status.Unavailable:
			if !sim.faulty && sim.giveUp != "shutdown" {
				return fmt.Errorf("the %s ended with %w on a link without faults", name, err)
			}
		case status.Canceled, status.DeadlineExceeded, status.Aborted:
		default:
			return fmt.Errorf("the %s ended with %w", name, err)
		}
	}
	return nil
}

func (sim *simulation) clientEnd() string {
	if _, err := sim.up.state(); err != nil {
		return err.Code().String()
	}
	return "answer"
}
