package echotest

import (
	"context"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

var _ echov1micro.StreamHandler = (*Handler)(nil)

// Each method sends metadata of both kinds.

// Count sends numbers, and fails after them if it is told to.
func (h *Handler) Count(ctx context.Context, req *echov1.CountRequest, stream *echov1micro.StreamCountServerStream) error {
	metadata.AddResponse(ctx, "begins", "count")
	metadata.AddTrailer(ctx, "kind", "count")
	body := make([]byte, req.GetSize())
	for n := range req.GetMessages() {
		if req.GetDelayMs() > 0 {
			select {
			case <-time.After(time.Duration(req.GetDelayMs()) * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := stream.Send(&echov1.CountResponse{Number: n, Body: body, Instance: h.Instance}); err != nil {
			return err
		}
	}
	return failure(req.GetCode())
}

// Sum adds up what it is sent.
func (h *Handler) Sum(ctx context.Context, stream *echov1micro.StreamSumServerStream) (*echov1.SumResponse, error) {
	metadata.AddResponse(ctx, "begins", "sum")
	metadata.AddTrailer(ctx, "kind", "sum")
	res := &echov1.SumResponse{Instance: h.Instance}
	for req, err := range stream.Messages() {
		if err != nil {
			return nil, err
		}
		if err := failure(req.GetCode()); err != nil {
			return nil, err
		}
		res.Sum += req.GetValue()
		res.Messages++
	}
	return res, nil
}

// Chat answers each message with the same.
func (h *Handler) Chat(ctx context.Context, stream *echov1micro.StreamChatServerStream) error {
	metadata.AddResponse(ctx, "begins", "chat")
	metadata.AddTrailer(ctx, "kind", "chat")
	for req, err := range stream.Messages() {
		if err != nil {
			return err
		}
		if err := failure(req.GetCode()); err != nil {
			return err
		}
		if err := stream.Send(&echov1.ChatResponse{Text: req.GetText(), Body: req.GetBody(), Instance: h.Instance}); err != nil {
			return err
		}
	}
	return nil
}

// failure is the error of a code, nil for 0.
func failure(code uint32) error {
	if code == 0 {
		return nil
	}
	return status.New(status.Code(code), "as told")
}
