package calltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/metadata"
)

// What the caller's end of each kind of stream must have.
type (
	call interface {
		ResponseMetadata() metadata.MD
		ResponseTrailer() metadata.MD
		Close() error
	}
	receiver[PRes any] interface {
		call
		Recv() (PRes, error)
		Messages() iter.Seq2[PRes, error]
	}
	collector[PReq, PRes any] interface {
		call
		Send(PReq) error
		CloseAndRecv() (PRes, error)
	}
	talker[PReq, PRes any] interface {
		receiver[PRes]
		Send(PReq) error
		CloseSend() error
	}
)

// Unary makes a call of a client's method.
func Unary[Req, Res any, PReq message[Req], PRes message[Res]](method func(context.Context, PReq, ...client.CallOption) (PRes, error)) func(context.Context, string) error {
	return func(ctx context.Context, procedure string) error {
		var md, trailer metadata.MD
		res, err := method(ctx, with[Req, PReq]("request of "+procedure), client.WithResponseMetadata(&md), client.WithResponseTrailer(&trailer))
		if err != nil {
			return err
		}
		return errors.Join(expect(res, "response of "+procedure), expectMetadata(md, trailer, procedure))
	}
}

// ServerStream calls a method that streams responses: once to the end, by Recv and by
// Messages, and once leaving an endless stream in the middle.
func ServerStream[Req, Res any, S receiver[PRes], PReq message[Req], PRes message[Res]](method func(context.Context, PReq, ...client.CallOption) (S, error)) func(context.Context, string) error {
	return func(ctx context.Context, procedure string) error {
		s, err := method(ctx, with[Req, PReq]("request of "+procedure))
		if err != nil {
			return err
		}
		res, err := s.Recv()
		if err != nil {
			return err
		}
		if err := errors.Join(expect(res, "response 0 of "+procedure), begun(s, procedure)); err != nil {
			return err
		}
		if err := receive[Res](s.Messages(), 1, procedure); err != nil {
			return err
		}
		if _, err := s.Recv(); err != io.EOF { //nolint:errorlint // Recv promises this very value.
			return errors.Join(errors.New("after the end, Recv does not return io.EOF"), err)
		}
		if err := errors.Join(expectMetadata(s.ResponseMetadata(), s.ResponseTrailer(), procedure), s.Close()); err != nil {
			return err
		}
		if s, err = method(ctx, with[Req, PReq]("endless request of "+procedure)); err != nil {
			return err
		}
		n := 0
		for _, err := range s.Messages() {
			if err != nil {
				return err
			}
			if n++; n == messages+1 {
				break
			}
		}
		// The server's shutdown waits for the handler, whose call has ended here.
		if _, err := s.Recv(); err == nil || err == io.EOF { //nolint:errorlint // See above.
			return errors.Join(errors.New("after the loop was left, the stream goes on or ends without an error"), err)
		}
		return nil
	}
}

// ClientStream calls a method that streams requests.
func ClientStream[Req, Res any, S collector[PReq, PRes], PReq message[Req], PRes message[Res]](method func(context.Context, ...client.CallOption) (S, error)) func(context.Context, string) error {
	return func(ctx context.Context, procedure string) error {
		s, err := method(ctx)
		if err != nil {
			return err
		}
		if err := send[Req](s.Send, procedure); err != nil {
			return err
		}
		res, err := s.CloseAndRecv()
		if err != nil {
			return err
		}
		return errors.Join(expect(res, "response of "+procedure), expectMetadata(s.ResponseMetadata(), s.ResponseTrailer(), procedure), s.Close())
	}
}

// BidiStream calls a method that streams both.
func BidiStream[Req, Res any, S talker[PReq, PRes], PReq message[Req], PRes message[Res]](method func(context.Context, ...client.CallOption) (S, error)) func(context.Context, string) error {
	return func(ctx context.Context, procedure string) error {
		s, err := method(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(send[Req](s.Send, procedure), s.CloseSend()); err != nil {
			return err
		}
		if err := receive[Res](s.Messages(), 0, procedure); err != nil {
			return err
		}
		return errors.Join(expectMetadata(s.ResponseMetadata(), s.ResponseTrailer(), procedure), s.Close())
	}
}

// begun checks what there is of metadata once the first message is there.
func begun(s call, procedure string) error {
	if got := s.ResponseMetadata().Get(metadataKey); got != procedure || s.ResponseTrailer().Len() != 0 {
		return fmt.Errorf("with the first message, the metadata is %v and the trailer %v", s.ResponseMetadata(), s.ResponseTrailer())
	}
	return nil
}

// send sends until the call has ended, which the receiving side tells about.
func send[Req any, PReq message[Req]](send func(PReq) error, procedure string) error {
	for i := range messages {
		err := send(with[Req, PReq](fmt.Sprintf("request %d of %s", i, procedure)))
		if err == io.EOF { //nolint:errorlint // Send promises this very value.
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func receive[Res any, PRes message[Res]](responses iter.Seq2[PRes, error], n int, procedure string) error {
	for res, err := range responses {
		if err != nil {
			return err
		}
		if err := expect(res, fmt.Sprintf("response %d of %s", n, procedure)); err != nil {
			return err
		}
		n++
	}
	if n != messages {
		return fmt.Errorf("there were %d responses, want %d", n, messages)
	}
	return nil
}

func expectMetadata(md, trailer metadata.MD, procedure string) error {
	if got := md.Get(metadataKey); got != procedure || md.Len() != 1 {
		return fmt.Errorf("the response metadata is %v, want %q", md, procedure)
	}
	if got := trailer.Get(trailerKey); got != procedure || trailer.Len() != 1 {
		return fmt.Errorf("the response trailer is %v, want %q", trailer, procedure)
	}
	return nil
}
