package nats

import (
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"strconv"
	"strings"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/jsonerror"
	"github.com/protomicro/micro/runtime/transport/internal/serving"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// Headers of an answer that is not the handler's. The value is the number of the
// code, the body the text.
const (
	headerReject = "Micro-Reject" // no handler ran
	headerError  = "Micro-Error"  // one may have
)

// Headers of a request that opens a stream, and of a reply that has to be fetched by
// one.
const (
	headerStream = "Micro-Stream" // the client's offer
	headerParts  = "Micro-Parts"  // the body is the stream's first message; partsCall or partsStream
	headerFetch  = "Micro-Fetch"  // the size of a reply; the reply subject is where to open the stream

	partsCall   = "call"
	partsStream = "stream"
)

// headerStatus is how the server marks its own answers.
const (
	headerStatus        = "Status"
	statusNoResponders  = "503"
	maxReceivedText     = 4 * serving.MaxRefusalMessage
	fallbackFailureText = "the answer's " + headerReject + " or " + headerError + " header is malformed"
)

// publish sends m. What it returns is nats.go's error, or one of code
// InvalidArgument.
func publish(nc *natsgo.Conn, subject, reply string, m transport.Message) error {
	if len(m.Header) == 0 {
		if reply == "" {
			return nc.Publish(subject, m.Body)
		}
		return nc.PublishRequest(subject, reply, m.Body)
	}
	return publishMarked(nc, subject, reply, m, nil)
}

// publishMarked sends m with headers of the transport's own.
func publishMarked(nc *natsgo.Conn, subject, reply string, m transport.Message, marks natsgo.Header) error {
	if err := wire.CheckHeader(m.Header); err != nil {
		return err
	}
	h := make(natsgo.Header, len(m.Header)+len(marks))
	for key, values := range m.Header {
		h[textproto.CanonicalMIMEHeaderKey(key)] = values
	}
	maps.Copy(h, marks)
	return nc.PublishMsg(&natsgo.Msg{Subject: subject, Reply: reply, Header: h, Data: m.Body})
}

// validReply reports whether a subject that a peer names may be sent to.
func validReply(subject string) bool {
	return subject != "" && len(subject) <= maxReplySubject && !strings.ContainsAny(subject, "*>")
}

// tooLarge is the error of sending a message beyond limit, and nil for others.
func tooLarge(what string, m transport.Message, limit int) *status.Error {
	size := len(m.Body)
	if m.Header != nil {
		size += wire.HeaderSize(m.Header)
	}
	if size <= limit {
		return nil
	}
	return status.Errorf(status.ResourceExhausted,
		"the %s of %d bytes is larger than the %d bytes that the transport carries (Config.MaxMessage)", what, size, limit)
}

// publishRefusal sends an answer that is not the handler's. Clients of JSON-RPC, who may
// know nothing of its header, find an error in the body.
func publishRefusal(nc *natsgo.Conn, subject string, r serving.Refusal) error {
	key := headerReject
	if r.Started {
		key = headerError
	}
	m := &natsgo.Msg{
		Subject: subject,
		Header:  natsgo.Header{key: {strconv.FormatUint(uint64(r.Code), 10)}},
		Data:    []byte(r.Message),
	}
	if r.Request != nil && jsonerror.Is(*r.Request) {
		m.Data = jsonerror.Answer(r.Request.Body, status.New(r.Code, r.Message))
	}
	return nc.PublishMsg(m)
}

// received is the message that m carries.
func received(m *natsgo.Msg) transport.Message {
	out := transport.Message{Body: m.Data}
	for key, values := range m.Header {
		key = strings.ToLower(key)
		if wire.ReservedKey(key) {
			continue
		}
		if out.Header == nil {
			out.Header = make(transport.Header, len(m.Header))
		}
		out.Header[key] = append(out.Header[key], values...)
	}
	return out
}

// answer is what m, a reply from addr, comes to.
func answer(m *natsgo.Msg, addr transport.Address) (transport.Message, error) {
	if m.Header == nil {
		return transport.Message{Body: m.Data}, nil
	}
	if len(m.Data) == 0 && m.Header.Get(headerStatus) == statusNoResponders {
		return transport.Message{}, status.Remote(status.Unavailable, "nobody listens at "+string(addr), nil).
			WithCause(transport.ErrNotStarted)
	}
	if v := m.Header.Get(headerReject); v != "" {
		return transport.Message{}, refusal(v, m.Data, false).Err()
	}
	if v := m.Header.Get(headerError); v != "" {
		return transport.Message{}, refusal(v, m.Data, true).Err()
	}
	return received(m), nil
}

func refusal(code string, text []byte, started bool) serving.Refusal {
	n, err := strconv.ParseUint(code, 10, 32)
	if c := status.Code(n); err == nil && c.Valid() && c != status.OK {
		message, ok := jsonerror.Text(text)
		if !ok {
			message = string(text)
		}
		message = message[:min(len(message), maxReceivedText)]
		return serving.Refusal{Code: c, Message: strings.ToValidUTF8(message, "\uFFFD"), Started: started}
	}
	return serving.Refusal{Code: status.Internal, Message: fallbackFailureText, Started: true}
}

// sendError is what the error of sending m comes to. sent is false when it is
// certain that the server did not get it.
func sendError(nc *natsgo.Conn, what string, m transport.Message, err error) (e *status.Error, sent bool) {
	switch {
	case status.CodeOf(err) == status.InvalidArgument:
		return status.From(err), false
	case errors.Is(err, natsgo.ErrMaxPayload):
		return status.Errorf(status.ResourceExhausted,
			"the %s of %d bytes is larger than the %d bytes that the NATS server carries (max_payload)",
			what, len(m.Body)+wire.HeaderSize(m.Header), nc.MaxPayload()), false
	case errors.Is(err, natsgo.ErrConnectionClosed),
		errors.Is(err, natsgo.ErrConnectionDraining),
		errors.Is(err, natsgo.ErrReconnectBufExceeded),
		errors.Is(err, natsgo.ErrHeadersNotSupported):
		return status.Remote(status.Unavailable, fmt.Sprintf("the %s was not sent: %v", what, err), nil), false
	}
	return status.Remote(status.Unavailable, fmt.Sprintf("the %s may not have been sent: %v", what, err), nil), true
}
