package protorpc_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	microv1 "github.com/protomicro/micro/proto/micro/v1"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/codectest"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/status"
)

func seed(f *testing.F) {
	for _, v := range load(f, false) {
		f.Add(v.Frame)
	}
}

func FuzzParseRequest(f *testing.F) {
	seed(f)
	codectest.FuzzRequest(f, protorpc.New())
}

func FuzzParseResponse(f *testing.F) {
	seed(f)
	codectest.FuzzResponse(f, protorpc.New())
}

func FuzzUnmarshal(f *testing.F) { codectest.FuzzUnmarshal(f, protorpc.New()) }

// FuzzRequestEnvelope compares the reader with that of generated Go.
func FuzzRequestEnvelope(f *testing.F) {
	for _, v := range load(f, false) {
		if v.Kind == "request" && v.Refused == "" {
			f.Add(envelopeOf(v.Frame))
		}
	}
	f.Fuzz(func(t *testing.T, envelope []byte) {
		var want microv1.Request
		wantErr := proto.Unmarshal(envelope, &want)
		var got codec.Request
		gotErr := protorpc.New().ParseRequest(raw(string(envelope), ""), &got)
		for _, m := range want.GetMetadata() {
			if m.GetKey() == "" {
				return // refused here alone
			}
		}
		if status.CodeOf(gotErr) == status.ResourceExhausted {
			return
		}
		if (gotErr != nil) != (wantErr != nil) {
			t.Fatalf("error %v, of generated Go %v", gotErr, wantErr)
		}
		if gotErr != nil {
			return
		}
		if got.Procedure != want.GetServiceMethod() || got.Seq != want.GetSeq() ||
			got.Timeout != time.Duration(min(want.GetTimeout(), math.MaxInt64)) || !equalMetadata(got.Metadata, want.GetMetadata()) {
			t.Errorf("read %+v, generated Go %v", got, &want)
		}
	})
}

// FuzzResponseEnvelope compares the reader with that of generated Go.
func FuzzResponseEnvelope(f *testing.F) {
	for _, v := range load(f, false) {
		if v.Kind == "response" && v.Refused == "" {
			f.Add(envelopeOf(v.Frame))
		}
	}
	f.Fuzz(func(t *testing.T, envelope []byte) {
		var want microv1.Response
		if proto.Unmarshal(envelope, &want) != nil || len(want.GetDetails()) > 128 {
			return // a text that is not UTF-8 is taken here
		}
		for _, m := range slices.Concat(want.GetMetadata(), want.GetTrailer()) {
			if m.GetKey() == "" {
				return
			}
		}
		var got codec.Response
		if err := protorpc.New().ParseResponse(raw(string(envelope), ""), &got); err != nil {
			if status.CodeOf(err) != status.ResourceExhausted {
				t.Fatalf("error %v, of generated Go none", err)
			}
			return
		}
		if got.Seq != want.GetSeq() || !equalMetadata(got.Metadata, want.GetMetadata()) || !equalMetadata(got.Trailer, want.GetTrailer()) {
			t.Errorf("read %+v, generated Go %v", got, &want)
		}
		if want.GetCode() == 0 && want.GetError() == "" {
			return // a code of more than 32 bits is an error here
		}
		if got.Err == nil || len(got.Err.Details()) != len(want.GetDetails()) {
			t.Fatalf("read error %v, generated Go %v", got.Err, &want)
		}
		for i, d := range want.GetDetails() {
			if g := got.Err.Details()[i]; g.GetTypeUrl() != d.GetTypeUrl() || string(g.GetValue()) != string(d.GetValue()) {
				t.Errorf("read detail %v, generated Go %v", g, d)
			}
		}
	})
}
