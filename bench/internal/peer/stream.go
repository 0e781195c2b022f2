package peer

import (
	"errors"
	"fmt"
	"io"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

// messages is one side of a stream that was opened.
type messages struct {
	send      func(m any) error
	closeSend func() error
	recv      func(m any) error
}

// pass passes n messages of the stream and sees that as many arrive.
func pass(kind Kind, n int, m messages) error {
	switch kind {
	case Down:
		if err := errors.Join(m.send(&echov1.CountRequest{Messages: uint64(n)}), m.closeSend()); err != nil {
			return err
		}
		return drain(n, func() error { return m.recv(new(echov1.CountResponse)) })
	case Up:
		req := &echov1.SumRequest{Body: streamBody()}
		for range n {
			if err := m.send(req); err != nil {
				return ended(err, m.recv)
			}
		}
		if err := m.closeSend(); err != nil {
			return err
		}
		res := new(echov1.SumResponse)
		if err := m.recv(res); err != nil {
			return err
		}
		return sum(res.GetMessages()).check(n)
	}
	sent := make(chan error, 1)
	go func() {
		req := &echov1.ChatRequest{Body: streamBody()}
		for range n {
			if err := m.send(req); err != nil {
				sent <- err
				return
			}
		}
		sent <- m.closeSend()
	}()
	err := drain(n, func() error { return m.recv(new(echov1.ChatResponse)) })
	return errors.Join(err, <-sent)
}

// ended is why a stream takes no more messages: with io.EOF, receiving says that.
func ended(err error, recv func(any) error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if err := recv(new(echov1.SumResponse)); err != nil {
		return err
	}
	return errors.New("the stream ended before all was sent")
}

// drain receives n messages and the end.
func drain(n int, recv func() error) error {
	got := 0
	for {
		err := recv()
		if errors.Is(err, io.EOF) {
			return sum(got).check(n)
		}
		if err != nil {
			return fmt.Errorf("after %d messages of %d: %w", got, n, err)
		}
		got++
	}
}

// turns is what Client.Open returns, after the first turn.
func turns(m messages) (turn func() error, err error) {
	req := &echov1.ChatRequest{Body: streamBody()}
	turn = func() error {
		if err := m.send(req); err != nil {
			return err
		}
		return m.recv(new(echov1.ChatResponse))
	}
	return turn, turn()
}
