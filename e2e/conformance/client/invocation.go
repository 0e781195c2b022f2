package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/e2e/conformance/internal/compat"
	conformancev1 "github.com/protomicro/micro/e2e/internal/gen/conformance/v1"
	"github.com/protomicro/micro/e2e/internal/gen/conformance/v1/conformancev1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// An invocation is one call of the suite.
type invocation struct {
	conformancev1micro.ConformanceServiceClient
	req     *conformancev1.ClientCompatRequest
	address transport.Address
	cancel  context.CancelFunc
	result  conformancev1.ClientResponseResult
}

// run makes the call. The error is of one that could not be made.
func (i *invocation) run(ctx context.Context) (*conformancev1.ClientResponseResult, error) {
	opts := []client.CallOption{client.WithAddress(i.address)}
	if i.req.TimeoutMs != nil {
		opts = append(opts, client.WithTimeout(time.Duration(i.req.GetTimeoutMs())*time.Millisecond))
	}
	compat.Pairs(i.req.GetRequestHeaders(), func(k, v string) { opts = append(opts, client.WithMetadata(k, v)) })
	var err error
	switch i.req.GetMethod() {
	case "Unary":
		err = unary(ctx, i, i.Unary, opts, (*conformancev1.UnaryResponse).GetPayload)
	case "IdempotentUnary":
		err = unary(ctx, i, i.IdempotentUnary, opts, (*conformancev1.IdempotentUnaryResponse).GetPayload)
	case "Unimplemented":
		err = unary(ctx, i, i.Unimplemented, opts, func(*conformancev1.UnimplementedResponse) *conformancev1.ConformancePayload { return nil })
	case "ServerStream":
		err = i.serverStream(ctx, opts)
	case "ClientStream":
		err = i.clientStream(ctx, opts)
	case "BidiStream":
		err = i.bidiStream(ctx, opts)
	default:
		err = fmt.Errorf("method %q is not known", i.req.GetMethod())
	}
	return &i.result, err
}

// request is message n that is to be sent.
func request[M any, P interface {
	*M
	proto.Message
}](i *invocation, n int) (P, error) {
	m := P(new(M))
	return m, i.req.GetRequestMessages()[n].UnmarshalTo(m)
}

func (i *invocation) onlyOne() error {
	if n := len(i.req.GetRequestMessages()); n != 1 {
		return fmt.Errorf("%d request messages for a method that has one", n)
	}
	return nil
}

// cancelAfter is when the call is to be cancelled once everything is sent.
func (i *invocation) cancelAfter() (time.Duration, bool) {
	c := i.req.GetCancel()
	if c == nil {
		return 0, false
	}
	switch t := c.GetCancelTiming().(type) {
	case nil:
		return 0, true
	case *conformancev1.ClientCompatRequest_Cancel_AfterCloseSendMs:
		return time.Duration(t.AfterCloseSendMs) * time.Millisecond, true
	}
	return 0, false
}

// closed is for when everything is sent.
func (i *invocation) closed() {
	if d, ok := i.cancelAfter(); ok {
		time.AfterFunc(d, i.cancel)
	}
}

// received notes a response, after which the call may have to be cancelled.
func (i *invocation) received(p *conformancev1.ConformancePayload) {
	i.result.Payloads = append(i.result.Payloads, p)
	if n := i.req.GetCancel().GetAfterNumResponses(); n > 0 && len(i.result.Payloads) == int(n) {
		i.cancel()
	}
}

// ended notes what the call came to.
func (i *invocation) ended(err error, leading, trailing metadata.MD) {
	i.result.ResponseHeaders = compat.Headers(leading)
	i.result.ResponseTrailers = compat.Headers(trailing)
	if err == nil || errors.Is(err, io.EOF) {
		return
	}
	e := status.From(err)
	i.result.Error = &conformancev1.Error{Code: conformancev1.Code(status.CodeOf(err)), Message: new(e.Message()), Details: e.Details()}
}

func unary[Req, Res any, PReq interface {
	*Req
	proto.Message
}](ctx context.Context, i *invocation, method func(context.Context, PReq, ...client.CallOption) (*Res, error), opts []client.CallOption,
	payload func(*Res) *conformancev1.ConformancePayload,
) error {
	if err := i.onlyOne(); err != nil {
		return err
	}
	req, err := request[Req, PReq](i, 0)
	if err != nil {
		return err
	}
	i.closed()
	var leading, trailing metadata.MD
	res, err := method(ctx, req, append(opts, client.WithResponseMetadata(&leading), client.WithResponseTrailer(&trailing))...)
	if err == nil {
		i.received(payload(res))
	}
	i.ended(err, leading, trailing)
	return nil
}

func (i *invocation) serverStream(ctx context.Context, opts []client.CallOption) error {
	if err := i.onlyOne(); err != nil {
		return err
	}
	req, err := request[conformancev1.ServerStreamRequest](i, 0)
	if err != nil {
		return err
	}
	i.closed()
	s, err := i.ServerStream(ctx, req, opts...)
	if err != nil {
		i.ended(err, metadata.MD{}, metadata.MD{})
		return nil
	}
	defer func() { _ = s.Close() }() // says nothing
	for err == nil {
		var res *conformancev1.ServerStreamResponse
		if res, err = s.Recv(); err == nil {
			i.received(res.GetPayload())
		}
	}
	i.ended(err, s.ResponseMetadata(), s.ResponseTrailer())
	return nil
}

func (i *invocation) clientStream(ctx context.Context, opts []client.CallOption) error {
	s, err := i.ClientStream(ctx, opts...)
	if err != nil {
		i.ended(err, metadata.MD{}, metadata.MD{})
		return nil
	}
	defer func() { _ = s.Close() }() // says nothing
	for n := range i.req.GetRequestMessages() {
		req, err := request[conformancev1.ClientStreamRequest](i, n)
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(i.req.GetRequestDelayMs()) * time.Millisecond)
		if err := s.Send(req); err != nil {
			i.result.NumUnsentRequests = int32(len(i.req.GetRequestMessages()) - n)
			break
		}
	}
	if i.req.GetCancel().GetBeforeCloseSend() != nil {
		i.cancel()
	}
	i.closed()
	res, err := s.CloseAndRecv()
	if err == nil {
		i.received(res.GetPayload())
	}
	i.ended(err, s.ResponseMetadata(), s.ResponseTrailer())
	return nil
}

func (i *invocation) bidiStream(ctx context.Context, opts []client.CallOption) error {
	s, err := i.BidiStream(ctx, opts...)
	if err != nil {
		i.ended(err, metadata.MD{}, metadata.MD{})
		return nil
	}
	defer func() { _ = s.Close() }() // says nothing
	full := i.req.GetStreamType() == conformancev1.StreamType_STREAM_TYPE_FULL_DUPLEX_BIDI_STREAM
	for n := range i.req.GetRequestMessages() {
		req, fault := request[conformancev1.BidiStreamRequest](i, n)
		if fault != nil {
			return fault
		}
		time.Sleep(time.Duration(i.req.GetRequestDelayMs()) * time.Millisecond)
		if s.Send(req) != nil { // Recv says why
			i.result.NumUnsentRequests = int32(len(i.req.GetRequestMessages()) - n)
			break
		}
		if !full {
			continue
		}
		var res *conformancev1.BidiStreamResponse
		if res, err = s.Recv(); err != nil {
			break
		}
		i.received(res.GetPayload())
	}
	if i.req.GetCancel().GetBeforeCloseSend() != nil {
		i.cancel()
	}
	_ = s.CloseSend() // likewise
	i.closed()
	for err == nil {
		var res *conformancev1.BidiStreamResponse
		if res, err = s.Recv(); err == nil {
			i.received(res.GetPayload())
		}
	}
	i.ended(err, s.ResponseMetadata(), s.ResponseTrailer())
	return nil
}
