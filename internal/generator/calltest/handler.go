package calltest

import (
	"context"
	"fmt"
	"iter"

	"github.com/protomicro/micro/runtime/metadata"
)

// The messages of a stream in each direction.
const messages = 3

// Metadata that handlers send, before the messages and behind them.
const (
	metadataKey = "procedure"
	trailerKey  = "trailer"
)

func addMetadata(ctx context.Context, procedure string) {
	metadata.AddResponse(ctx, metadataKey, procedure)
	metadata.AddTrailer(ctx, trailerKey, procedure)
}

// Handle is the handler of a unary method.
func Handle[Req, Res any, PReq message[Req], PRes message[Res]](ctx context.Context, procedure string, req PReq) (PRes, error) {
	if err := expect(req, "request of "+procedure); err != nil {
		return nil, err
	}
	addMetadata(ctx, procedure)
	return with[Res, PRes]("response of " + procedure), nil
}

// HandleServerStream is the handler of a method that streams responses. It sends
// without an end where the request asks for that.
func HandleServerStream[Req, Res any, PReq message[Req], PRes message[Res]](ctx context.Context, procedure string, req PReq, send func(PRes) error) error {
	addMetadata(ctx, procedure)
	endless := expect(req, "endless request of "+procedure) == nil
	if err := expect(req, "request of "+procedure); err != nil && !endless {
		return err
	}
	for i := 0; i < messages || endless; i++ {
		if err := send(with[Res, PRes](fmt.Sprintf("response %d of %s", i, procedure))); err != nil {
			return err
		}
	}
	return nil
}

// HandleClientStream is the handler of a method that streams requests.
func HandleClientStream[Req, Res any, PReq message[Req], PRes message[Res]](ctx context.Context, procedure string, requests iter.Seq2[PReq, error]) (PRes, error) {
	addMetadata(ctx, procedure)
	n := 0
	for req, err := range requests {
		if err != nil {
			return nil, err
		}
		if err := expect(req, fmt.Sprintf("request %d of %s", n, procedure)); err != nil {
			return nil, err
		}
		n++
	}
	if n != messages {
		return nil, fmt.Errorf("there were %d requests, want %d", n, messages)
	}
	return with[Res, PRes]("response of " + procedure), nil
}

// HandleBidiStream is the handler of a method that streams both: it answers each
// request at once. The first it takes by recv.
func HandleBidiStream[Req, Res any, PReq message[Req], PRes message[Res]](ctx context.Context, procedure string, recv func() (PReq, error), requests iter.Seq2[PReq, error], send func(PRes) error) error {
	addMetadata(ctx, procedure)
	n := 0
	answer := func(req PReq) error {
		if err := expect(req, fmt.Sprintf("request %d of %s", n, procedure)); err != nil {
			return err
		}
		n++
		return send(with[Res, PRes](fmt.Sprintf("response %d of %s", n-1, procedure)))
	}
	req, err := recv()
	if err != nil {
		return err
	}
	if err := answer(req); err != nil {
		return err
	}
	for req, err := range requests {
		if err != nil {
			return err
		}
		if err := answer(req); err != nil {
			return err
		}
	}
	return nil
}
