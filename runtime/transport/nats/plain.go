package nats

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// A plain request is the message alone, sent to the subject of one method, so that
// any program with a NATS client can make one. On its way to the handler it has the
// frame that it would have had from a client of this project, and the response loses
// its frame on the way back. So everything between is the same for both.

// Headers of plain requests and responses.
const (
	headerContentType = "Content-Type"
	headerTimeout     = "Micro-Timeout"
)

// A plainEncoding is how the message of a plain request is encoded. Zero is a request
// that is not plain.
type plainEncoding uint8

const (
	notPlain plainEncoding = iota
	plainProtobuf
	plainJSON
)

const (
	typeProtobuf = "application/protobuf"
	typeJSON     = "application/json"
)

func (e plainEncoding) contentType() string {
	if e == plainJSON {
		return typeJSON
	}
	return typeProtobuf
}

// codec is the one that frames messages in this encoding.
func (e plainEncoding) codec() codec.Codec {
	if e == plainJSON {
		return jsonrpc.New()
	}
	return protorpc.New()
}

// plainEncodingOf is the encoding of m, and the error where m names one that is not
// served. Without a name, a message that begins with '{' is JSON, since no message in
// protobuf does, and so is an empty one, whose sender is likely to be a person.
func plainEncodingOf(m *natsgo.Msg) (plainEncoding, error) {
	stated := headerValue(m.Header, headerContentType)
	name, _, _ := strings.Cut(stated, ";")
	switch strings.ToLower(strings.TrimSpace(name)) {
	case typeJSON:
		return plainJSON, nil
	case typeProtobuf, "application/x-protobuf", "application/vnd.google.protobuf":
		return plainProtobuf, nil
	case "":
		if len(m.Data) == 0 || m.Data[0] == '{' {
			return plainJSON, nil
		}
		return plainProtobuf, nil
	}
	return plainJSON, status.Errorf(status.Unimplemented, "content type %.80q is not served here (only %s and %s)",
		stated, typeJSON, typeProtobuf)
}

// headerValue is the first value of a header in whatever spelling: nats.go keeps that
// of the sender, who may be a person.
func headerValue(h natsgo.Header, key string) string {
	if v := h.Get(key); v != "" {
		return v
	}
	for k, vs := range h {
		if len(vs) > 0 && strings.EqualFold(k, key) {
			return vs[0]
		}
	}
	return ""
}

// receivePlain takes what is sent to the subject of a method.
func (l *listener) receivePlain(m *natsgo.Msg) {
	if !l.answerable(m) {
		return
	}
	encoding, err := plainEncodingOf(m)
	to := place{reply: m.Reply, plain: encoding}
	var frame []byte
	if err == nil {
		frame, err = l.plainFrame(encoding, m)
	}
	if err != nil {
		e := status.From(err)
		l.refuseRequest(to, serving.Refusal{Code: e.Code(), Message: e.Message()})
		return
	}
	l.calls.Deliver(to, transport.Message{Body: frame})
}

// plainFrame is a plain request as a frame of its encoding's codec.
func (l *listener) plainFrame(encoding plainEncoding, m *natsgo.Msg) ([]byte, error) {
	if err := tooLarge("request", received(m), l.transport.cfg.MaxMessage); err != nil {
		return nil, err
	}
	procedure := l.transport.cfg.procedure(m.Subject)
	req := codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: procedure}
	var err error
	if req.Timeout, err = plainTimeout(m.Header); err != nil {
		return nil, err
	}
	if err := plainMetadata(m.Header, &req.Metadata); err != nil {
		return nil, err
	}
	frame, err := encoding.codec().AppendRequest(nil, &req, nil)
	if err != nil {
		return nil, err
	}
	// The frame of a request without a message ends with the place of the message.
	if encoding == plainProtobuf {
		binary.BigEndian.PutUint32(frame[len(frame)-4:], uint32(len(m.Data)))
		return append(frame, m.Data...), nil
	}
	if len(m.Data) == 0 {
		return frame, nil
	}
	if !json.Valid(m.Data) {
		return nil, status.New(status.InvalidArgument, "the body is not JSON")
	}
	const end = "]}"
	frame = append(frame[:len(frame)-len("{}"+end)], m.Data...)
	return append(frame, end...), nil
}

func plainTimeout(h natsgo.Header) (time.Duration, error) {
	text := headerValue(h, headerTimeout)
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, status.Errorf(status.InvalidArgument, "the header %s is %.80q (it has the form 1.5s or 200ms)", headerTimeout, text)
	}
	return max(d, 1), nil
}

// plainMetadata takes the headers that are not the transport's for metadata. The server
// checks them as it does any metadata.
func plainMetadata(h natsgo.Header, md *metadata.MD) error {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(h)) {
		key := strings.ToLower(name)
		if wire.ReservedKey(key) || key == transport.HeaderContentType {
			continue
		}
		for _, v := range h[name] {
			if strings.HasSuffix(key, metadata.BinarySuffix) {
				b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
				if err != nil {
					return status.Errorf(status.InvalidArgument, "the header %.80q is not base64", name)
				}
				v = string(b)
			}
			if size += len(key) + len(v); size > metadata.MaxSize {
				return status.Errorf(status.ResourceExhausted, "the headers are over the limit of %d bytes", metadata.MaxSize)
			}
			md.Add(key, v)
		}
	}
	return nil
}

// replyPlain sends the response in frame without its frame.
func (l *listener) replyPlain(to place, frame []byte) error {
	var res codec.Response
	if err := to.plain.codec().ParseResponse(frame, &res); err != nil {
		return status.New(status.Internal, "the response could not be taken out of its frame").WithCause(err)
	}
	headers := natsgo.Header{headerContentType: {to.plain.contentType()}}
	addPlainMetadata(headers, res.Metadata)
	addPlainMetadata(headers, res.Trailer) // one message has one place for both
	if res.Err != nil {
		return l.publishPlain(to, headers, res.Err)
	}
	return l.send(&natsgo.Msg{Subject: to.reply, Header: headers, Data: res.Payload})
}

func addPlainMetadata(headers natsgo.Header, md metadata.MD) {
	for key, value := range md.All() {
		if wire.ReservedKey(key) || key == transport.HeaderContentType {
			continue // those are the transport's
		}
		if strings.HasSuffix(key, metadata.BinarySuffix) {
			value = base64.StdEncoding.EncodeToString([]byte(value))
		}
		name := textproto.CanonicalMIMEHeaderKey(key)
		headers[name] = append(headers[name], value)
	}
}

// refusePlain sends an answer that is not the handler's.
func (l *listener) refusePlain(to place, r serving.Refusal) error {
	headers := natsgo.Header{headerContentType: {to.plain.contentType()}}
	return l.publishPlain(to, headers, status.Remote(r.Code, r.Message, nil))
}

// publishPlain sends a failure as services of NATS do. Their headers have no room for
// all of it, so the body has it as well.
func (l *listener) publishPlain(to place, headers natsgo.Header, e *status.Error) error {
	headers[micro.ErrorHeader] = []string{plainText(e)}
	headers[micro.ErrorCodeHeader] = []string{strconv.Itoa(plainCode(e.Code()))}
	m := &natsgo.Msg{Subject: to.reply, Header: headers}
	if to.plain == plainJSON {
		m.Data = appendErrorJSON(nil, e)
	} else {
		m.Data = appendErrorStatus(nil, e)
	}
	return l.send(m)
}

func (l *listener) send(m *natsgo.Msg) error {
	err := l.transport.nc.PublishMsg(m)
	if err == nil {
		return nil
	}
	size := transport.Header{}
	for key, values := range m.Header {
		size[key] = values
	}
	e, _ := sendError(l.transport.nc, "reply", transport.Message{Header: size, Body: m.Data}, err)
	return e
}

// maxPlainText bounds an error's text in a header.
const maxPlainText = 1024

// plainText is an error as one line: the name of its code and its message.
func plainText(e *status.Error) string {
	text := e.Code().String()
	if m := e.Message(); m != "" {
		text += ": " + m
	}
	text = strings.ToValidUTF8(text[:min(len(text), maxPlainText)], "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text))
}

// plainCode is the number for a code: that of HTTP, as services of NATS have it.
func plainCode(c status.Code) int {
	switch c {
	case status.InvalidArgument, status.FailedPrecondition, status.OutOfRange:
		return 400
	case status.Unauthenticated:
		return 401
	case status.PermissionDenied:
		return 403
	case status.NotFound:
		return 404
	case status.AlreadyExists, status.Aborted:
		return 409
	case status.ResourceExhausted:
		return 429
	case status.Canceled:
		return 499
	case status.Unimplemented:
		return 501
	case status.Unavailable:
		return 503
	case status.DeadlineExceeded:
		return 504
	}
	return 500
}

// appendErrorJSON appends an error as Connect has it in JSON.
func appendErrorJSON(b []byte, e *status.Error) []byte {
	type detail struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	out := struct {
		Code    string   `json:"code"`
		Message string   `json:"message,omitempty"`
		Details []detail `json:"details,omitempty"`
	}{Code: e.Code().String(), Message: e.Message()}
	for _, d := range e.Details() {
		name := d.GetTypeUrl()
		name = name[strings.LastIndexByte(name, '/')+1:]
		out.Details = append(out.Details, detail{name, base64.RawStdEncoding.EncodeToString(d.GetValue())})
	}
	text, err := json.Marshal(out)
	if err != nil { // texts alone: there is nothing that could fail
		panic(fmt.Sprintf("nats: an error in JSON: %v", err))
	}
	return append(b, text...)
}

// appendErrorStatus appends an error as a google.rpc.Status in protobuf.
func appendErrorStatus(b []byte, e *status.Error) []byte {
	const fieldCode, fieldMessage, fieldDetails, fieldType, fieldValue = 1, 2, 3, 1, 2
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldCode, protowire.VarintType), uint64(e.Code()))
	if e.Message() != "" {
		b = protowire.AppendString(protowire.AppendTag(b, fieldMessage, protowire.BytesType), e.Message())
	}
	for _, d := range e.Details() {
		var a []byte
		a = protowire.AppendString(protowire.AppendTag(a, fieldType, protowire.BytesType), d.GetTypeUrl())
		a = protowire.AppendBytes(protowire.AppendTag(a, fieldValue, protowire.BytesType), d.GetValue())
		b = protowire.AppendBytes(protowire.AppendTag(b, fieldDetails, protowire.BytesType), a)
	}
	return b
}
