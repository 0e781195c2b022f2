package reflection

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	reflectionv1 "github.com/protomicro/micro/internal/gen/reflection/v1"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
)

// A handler answers questions about files.
type handler struct {
	files    layered
	services func() []string
}

// noQuestion ends a stream.
var noQuestion = status.New(status.InvalidArgument,
	"the request asks nothing (message_request is not set, or is one that is not known here)")

// serve answers one question after the other, until the client has no more.
func (h *handler) serve(_ context.Context, call server.Call) error {
	sent := make(map[string]bool) // by path
	for {
		var req reflectionv1.ServerReflectionRequest
		if err := call.Receive(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		res := &reflectionv1.ServerReflectionResponse{ValidHost: req.GetHost(), OriginalRequest: &req}
		if err := h.answer(&req, res, sent); errors.Is(err, noQuestion) {
			return err
		} else if err != nil {
			e := status.FromHandler(err)
			res.MessageResponse = &reflectionv1.ServerReflectionResponse_ErrorResponse{ErrorResponse: &reflectionv1.ErrorResponse{
				ErrorCode: int32(e.Code()), ErrorMessage: e.Message(),
			}}
		}
		if err := call.Send(res); err != nil {
			return err
		}
	}
}

// answer fills in res. An error is the answer, but for noQuestion.
func (h *handler) answer(req *reflectionv1.ServerReflectionRequest, res *reflectionv1.ServerReflectionResponse, sent map[string]bool) error {
	var file protoreflect.FileDescriptor
	var err error
	switch q := req.GetMessageRequest().(type) {
	case *reflectionv1.ServerReflectionRequest_ListServices:
		list := &reflectionv1.ListServiceResponse{}
		for _, name := range h.services() {
			list.Service = append(list.Service, &reflectionv1.ServiceResponse{Name: name})
		}
		res.MessageResponse = &reflectionv1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}
		return nil
	case *reflectionv1.ServerReflectionRequest_AllExtensionNumbersOfType:
		return h.answerNumbers(q.AllExtensionNumbersOfType, res)
	case *reflectionv1.ServerReflectionRequest_FileByFilename:
		file, err = h.files.findFile(q.FileByFilename)
		if errors.Is(err, protoregistry.NotFound) {
			err = status.Errorf(status.NotFound, "no file %.200q here", q.FileByFilename)
		}
	case *reflectionv1.ServerReflectionRequest_FileContainingSymbol:
		file, err = h.fileOf(q.FileContainingSymbol)
	case *reflectionv1.ServerReflectionRequest_FileContainingExtension:
		x := q.FileContainingExtension
		file, err = h.fileOfExtension(x.GetContainingType(), x.GetExtensionNumber())
	default:
		return noQuestion
	}
	if err != nil {
		return err
	}
	files, err := encode(file, sent)
	if err != nil {
		return err
	}
	res.MessageResponse = &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionv1.FileDescriptorResponse{FileDescriptorProto: files},
	}
	return nil
}

func (h *handler) fileOf(symbol string) (protoreflect.FileDescriptor, error) {
	d, err := h.files.findName(protoreflect.FullName(symbol))
	switch {
	case err == nil:
		return d.ParentFile(), nil
	case !errors.Is(err, protoregistry.NotFound):
		return nil, err
	case slices.Contains(h.services(), symbol):
		return nil, status.Errorf(status.NotFound,
			"service %.200q is served here, but its descriptor is not known (link its generated code, or give reflection.Config.Files)", symbol)
	}
	return nil, status.Errorf(status.NotFound, "no symbol %.200q here", symbol)
}

func (h *handler) fileOfExtension(of string, number int32) (protoreflect.FileDescriptor, error) {
	var file protoreflect.FileDescriptor
	h.files.extensions(protoreflect.FullName(of), func(x protoreflect.ExtensionDescriptor) bool {
		if int32(x.Number()) == number {
			file = x.ParentFile()
		}
		return file == nil
	})
	if file == nil {
		return nil, status.Errorf(status.NotFound, "no extension %d of %.200q here", number, of)
	}
	return file, nil
}

func (h *handler) answerNumbers(of string, res *reflectionv1.ServerReflectionResponse) error {
	numbers := h.files.extensionNumbers(protoreflect.FullName(of))
	if len(numbers) == 0 {
		d, err := h.files.findName(protoreflect.FullName(of))
		if err != nil && !errors.Is(err, protoregistry.NotFound) {
			return err
		}
		if _, ok := d.(protoreflect.MessageDescriptor); !ok {
			return status.Errorf(status.NotFound, "no message %.200q here", of)
		}
	}
	res.MessageResponse = &reflectionv1.ServerReflectionResponse_AllExtensionNumbersResponse{
		AllExtensionNumbersResponse: &reflectionv1.ExtensionNumberResponse{BaseTypeName: of, ExtensionNumber: numbers},
	}
	return nil
}
