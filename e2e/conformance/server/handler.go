package main

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/protomicro/micro/e2e/conformance/internal/compat"
	conformancev1 "github.com/protomicro/micro/e2e/internal/gen/conformance/v1"
	"github.com/protomicro/micro/e2e/internal/gen/conformance/v1/conformancev1micro"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// A handler does what requests tell it to do, as service.proto has it.
type handler struct{}

var _ conformancev1micro.ConformanceServiceHandler = handler{}

func (handler) Unary(ctx context.Context, req *conformancev1.UnaryRequest) (*conformancev1.UnaryResponse, error) {
	p, err := respond(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.UnaryResponse{Payload: p}, err
}

func (handler) IdempotentUnary(ctx context.Context, req *conformancev1.IdempotentUnaryRequest) (*conformancev1.IdempotentUnaryResponse, error) {
	p, err := respond(ctx, req.GetResponseDefinition(), req)
	return &conformancev1.IdempotentUnaryResponse{Payload: p}, err
}

func (handler) Unimplemented(context.Context, *conformancev1.UnimplementedRequest) (*conformancev1.UnimplementedResponse, error) {
	return nil, status.New(status.Unimplemented, "this method is not implemented")
}

func (handler) ClientStream(ctx context.Context, stream *conformancev1micro.ConformanceServiceClientStreamServerStream) (*conformancev1.ClientStreamResponse, error) {
	var def *conformancev1.UnaryResponseDefinition
	var requests []proto.Message
	for req, err := range stream.Messages() {
		if err != nil {
			return nil, err
		}
		if len(requests) == 0 {
			def = req.GetResponseDefinition()
		}
		requests = append(requests, req)
	}
	p, err := respond(ctx, def, requests...)
	return &conformancev1.ClientStreamResponse{Payload: p}, err
}

func (handler) ServerStream(ctx context.Context, req *conformancev1.ServerStreamRequest, stream *conformancev1micro.ConformanceServiceServerStreamServerStream) error {
	r := newResponses(ctx, req.GetResponseDefinition(), func(p *conformancev1.ConformancePayload) error {
		return stream.Send(&conformancev1.ServerStreamResponse{Payload: p})
	})
	return r.finish(ctx, req)
}

func (handler) BidiStream(ctx context.Context, stream *conformancev1micro.ConformanceServiceBidiStreamServerStream) error {
	var r *responses
	var full bool
	var requests []proto.Message
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if r == nil {
			full = req.GetFullDuplex()
			r = newResponses(ctx, req.GetResponseDefinition(), func(p *conformancev1.ConformancePayload) error {
				return stream.Send(&conformancev1.BidiStreamResponse{Payload: p})
			})
		}
		requests = append(requests, req)
		if !full {
			continue
		}
		if r.done() {
			break
		}
		if err := r.send(ctx, true, requests...); err != nil {
			return err
		}
		requests = nil
	}
	if r == nil {
		return nil
	}
	return r.finish(ctx, requests...)
}

// responses are those that a stream is told to send.
type responses struct {
	def  *conformancev1.StreamResponseDefinition
	emit func(*conformancev1.ConformancePayload) error
	sent int
}

func newResponses(ctx context.Context, def *conformancev1.StreamResponseDefinition, emit func(*conformancev1.ConformancePayload) error) *responses {
	addMetadata(ctx, def)
	return &responses{def: def, emit: emit}
}

func (r *responses) done() bool { return r.sent >= len(r.def.GetResponseData()) }

// send sends the next one. What is known of the call goes with the first; the requests
// with every one that answers them.
func (r *responses) send(ctx context.Context, each bool, requests ...proto.Message) error {
	p := &conformancev1.ConformancePayload{Data: r.def.GetResponseData()[r.sent]}
	switch {
	case r.sent == 0:
		info, err := requestInfo(ctx, requests)
		if err != nil {
			return err
		}
		p.RequestInfo = info
	case each:
		all, err := wrap(requests)
		if err != nil {
			return err
		}
		p.RequestInfo = &conformancev1.ConformancePayload_RequestInfo{Requests: all}
	}
	if err := wait(ctx, r.def.GetResponseDelayMs()); err != nil {
		return err
	}
	if err := r.emit(p); err != nil {
		return err
	}
	r.sent++
	return nil
}

// finish sends what is left, and ends as it is told.
func (r *responses) finish(ctx context.Context, requests ...proto.Message) error {
	for !r.done() {
		if err := r.send(ctx, false, requests...); err != nil {
			return err
		}
	}
	if r.def.GetError() == nil {
		return nil
	}
	if r.sent > 0 {
		return failure(r.def.GetError(), nil)
	}
	info, err := requestInfo(ctx, requests)
	if err != nil {
		return err
	}
	return failure(r.def.GetError(), info)
}

// respond is the outcome of a call with one response.
func respond(ctx context.Context, def *conformancev1.UnaryResponseDefinition, requests ...proto.Message) (*conformancev1.ConformancePayload, error) {
	info, err := requestInfo(ctx, requests)
	if err != nil {
		return nil, err
	}
	addMetadata(ctx, def)
	if err := wait(ctx, def.GetResponseDelayMs()); err != nil {
		return nil, err
	}
	if def.GetError() != nil {
		return nil, failure(def.GetError(), info)
	}
	return &conformancev1.ConformancePayload{Data: def.GetResponseData(), RequestInfo: info}, nil
}

// addMetadata adds what a definition has of it.
func addMetadata(ctx context.Context, def interface {
	GetResponseHeaders() []*conformancev1.Header
	GetResponseTrailers() []*conformancev1.Header
}) {
	compat.Pairs(def.GetResponseHeaders(), func(k, v string) { metadata.AddResponse(ctx, k, v) })
	compat.Pairs(def.GetResponseTrailers(), func(k, v string) { metadata.AddTrailer(ctx, k, v) })
}

func wait(ctx context.Context, ms uint32) error {
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure is the error that a definition asks for, with info among its details.
func failure(e *conformancev1.Error, info *conformancev1.ConformancePayload_RequestInfo) error {
	var details []proto.Message
	for _, a := range e.GetDetails() {
		d, err := a.UnmarshalNew()
		if err != nil {
			return status.Errorf(status.InvalidArgument, "a detail: %v", err)
		}
		details = append(details, d)
	}
	if info != nil {
		details = append(details, info)
	}
	err, fault := status.New(status.Code(e.GetCode()), e.GetMessage()).WithDetails(details...)
	if fault != nil {
		return fault
	}
	return err
}

// requestInfo is what is known of a call.
func requestInfo(ctx context.Context, requests []proto.Message) (*conformancev1.ConformancePayload_RequestInfo, error) {
	all, err := wrap(requests)
	if err != nil {
		return nil, err
	}
	info := &conformancev1.ConformancePayload_RequestInfo{RequestHeaders: compat.Headers(metadata.Incoming(ctx)), Requests: all}
	if deadline, ok := ctx.Deadline(); ok {
		info.TimeoutMs = new(time.Until(deadline).Milliseconds())
	}
	return info, nil
}

func wrap(messages []proto.Message) ([]*anypb.Any, error) {
	var all []*anypb.Any
	for _, m := range messages {
		a, err := anypb.New(m)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}
