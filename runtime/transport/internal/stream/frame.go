package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// Kinds of frames: the low four bits of the first byte.
const (
	kindAccept = 1 // listener to client, its first frame: sequence, window, limits
	kindData   = 2 // sequence, a message or a piece of one
	kindHalf   = 3 // client to listener: sequence; no message follows
	kindEnd    = 4 // listener to client: sequence, the answer or a piece of it
	kindReset  = 5 // code, text: the stream is over at once
	kindCredit = 6 // the last sequence number, what the peer may send up to; a heartbeat as well
	kindHead   = 7 // listener to client, before DATA: sequence, the head or a piece of it
	kindPack   = 8 // frames with a number, each behind its length
)

const (
	kindMask = 0x0f
	// flagMore is on a piece that is not the last of its message.
	flagMore = 0x10
)

// Forms of the answer: the first byte of what END frames carry.
const (
	formBare    = 0 // body
	formHeader  = 1 // header, body
	formRefused = 2 // code, text; no handler ran
	formFailed  = 3 // code, text; a handler may have run
)

const (
	// maxText bounds the text of a refusal or a reset.
	maxText = 1024
	// overhead is the most that a frame adds to a piece of a message.
	overhead = 1 + binary.MaxVarintLen64
)

// An amount is a number of messages and of their bytes. Amounts of credit count from
// the beginning of the stream, so that one that is lost or comes twice does no harm.
type amount struct{ messages, bytes uint64 }

// terms are what a side tells the other at the beginning.
type terms struct {
	window     amount // what may be sent before any credit
	maxMessage uint64
	heartbeat  uint64 // in milliseconds; 0 is none
}

const (
	minWindowBytes = 1 << 10
	maxTerm        = 1 << 53
)

func (t terms) valid() bool {
	return t.window.messages >= 1 && t.window.messages <= maxTerm &&
		t.window.bytes >= minWindowBytes && t.window.bytes <= maxTerm &&
		t.maxMessage <= maxTerm && t.heartbeat <= maxTerm
}

// A frame is what a peer sent. Its slices are parts of what was parsed.
type frame struct {
	kind    byte
	more    bool
	seq     uint64 // that of the frame; in CREDIT, of the last one with a number
	terms   terms  // of ACCEPT
	credit  amount // of CREDIT
	code    status.Code
	payload []byte // of HEAD, DATA and END; the text of RESET; the frames of a pack
}

var errMalformed = errors.New("malformed frame")

// parse reads a frame. One of an unknown kind is no error: later versions may have
// more.
func parse(b []byte) (f frame, err error) {
	if len(b) == 0 {
		return f, errMalformed
	}
	f.kind = b[0] & kindMask
	flags := b[0] &^ kindMask
	b = b[1:]
	switch f.kind {
	case kindData, kindEnd, kindHead:
		f.more = flags&flagMore != 0
		flags &^= flagMore
		if f.seq, b, err = number(b); err != nil {
			return f, err
		}
		f.payload = b
		if f.more && len(b) == 0 {
			return f, errMalformed // a piece without end
		}
	case kindHalf:
		if f.seq, _, err = number(b); err != nil {
			return f, err
		}
	case kindAccept:
		f.seq, b, err = number(b)
		for _, p := range []*uint64{&f.terms.window.messages, &f.terms.window.bytes, &f.terms.maxMessage, &f.terms.heartbeat} {
			if err == nil {
				*p, b, err = number(b)
			}
		}
		if err != nil || !f.terms.valid() {
			return f, errMalformed
		}
	case kindCredit:
		f.seq, b, err = number(b)
		for _, p := range []*uint64{&f.credit.messages, &f.credit.bytes} {
			if err == nil {
				*p, b, err = number(b)
			}
		}
		if err != nil {
			return f, err
		}
	case kindReset:
		if len(b) == 0 {
			return f, errMalformed
		}
		f.code, f.payload = validCode(b[0]), b[1:]
	case kindPack:
		if len(b) == 0 {
			return f, errMalformed
		}
		f.payload = b
	default:
		return f, nil
	}
	if flags != 0 {
		return f, errMalformed
	}
	return f, nil
}

// unpack takes the first frame out of what a pack carries.
func unpack(b []byte) (f frame, rest []byte, err error) {
	n, b, err := number(b)
	if err != nil || n > uint64(len(b)) {
		return f, nil, errMalformed
	}
	f, err = parse(b[:n])
	switch f.kind {
	case kindHead, kindData, kindHalf, kindEnd:
		return f, b[n:], err
	}
	return f, nil, errMalformed
}

func number(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, errMalformed
	}
	return n, b[size:], nil
}

func validCode(b byte) status.Code {
	if c := status.Code(b); c != status.OK && c.Valid() {
		return c
	}
	return status.Unknown
}

func validText(b []byte) string {
	return strings.ToValidUTF8(string(b[:min(len(b), maxText)]), "")
}

func cutText(s string, room int) string {
	if limit := max(min(maxText, room), 0); len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "")
}

func appendAccept(b []byte, seq uint64, t terms) []byte {
	b = append(b, kindAccept)
	for _, n := range []uint64{seq, t.window.messages, t.window.bytes, t.maxMessage, t.heartbeat} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendHead(b []byte, kind byte, more bool, seq uint64) []byte {
	if more {
		kind |= flagMore
	}
	return binary.AppendUvarint(append(b, kind), seq)
}

func appendCredit(b []byte, last uint64, limit amount) []byte {
	b = binary.AppendUvarint(append(b, kindCredit), last)
	b = binary.AppendUvarint(b, limit.messages)
	return binary.AppendUvarint(b, limit.bytes)
}

func appendRefused(b []byte, form byte, code status.Code, text string, room int) []byte {
	return append(append(b, form, byte(code)), cutText(text, room-2)...)
}

// AppendReset appends the frame that ends a stream at once. It is for a stream that
// this side no longer knows: see [IsAccept].
func AppendReset(frame []byte, code status.Code, text string) []byte {
	return append(append(frame, kindReset, byte(code)), cutText(text, maxText)...)
}

// AppendRefusal appends the frame that refuses a stream for which there is no
// Server. The client gets code and message as an error that is
// [transport.ErrNotStarted] as well. The message is cut to 1024 bytes.
func AppendRefusal(frame []byte, code status.Code, message string) []byte {
	return appendRefused(appendHead(frame, kindEnd, false, 1), formRefused, code, message, 2+maxText)
}

// IsAccept reports whether a frame is the listener's acceptance. One for a stream that
// the client has given up meanwhile is answered with [AppendReset], to where the
// stream's frames would go: the listener has not heard of it otherwise.
func IsAccept(frame []byte) bool {
	return len(frame) > 0 && frame[0] == kindAccept
}

// offerVersion is the version of the frames.
const offerVersion = 1

// offer is terms as they go beside the request: numbers in decimal.
func (t terms) offer() string {
	return fmt.Sprint(offerVersion, " ", t.window.messages, " ", t.window.bytes, " ", t.maxMessage, " ", t.heartbeat)
}

func parseOffer(s string) (terms, *status.Error) {
	var version uint64
	var t terms
	fields := strings.Fields(s)
	numbers := []*uint64{&version, &t.window.messages, &t.window.bytes, &t.maxMessage, &t.heartbeat}
	for i, p := range numbers {
		if i == 1 && version != offerVersion {
			return t, status.Errorf(status.Unimplemented,
				"streams of version %d are not known here, only those of version %d", version, offerVersion)
		}
		if i >= len(fields) || !decimal(fields[i], p) {
			return t, status.Errorf(status.InvalidArgument, "malformed offer of a stream: %.64q", s)
		}
	}
	if !t.valid() {
		return t, status.Errorf(status.InvalidArgument, "offer of a stream out of bounds: %.64q", s)
	}
	return t, nil
}

func decimal(s string, p *uint64) bool {
	if s == "" || len(s) > 16 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		*p = *p*10 + uint64(s[i]-'0')
	}
	return true
}

// appendAnswerHead appends what stands before the body of a reply.
func appendAnswerHead(b []byte, h transport.Header) []byte {
	count := 0
	for _, values := range h {
		count += len(values)
	}
	if count == 0 {
		return append(b, formBare)
	}
	b = binary.AppendUvarint(append(b, formHeader), uint64(count))
	for _, key := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[key] {
			b = append(binary.AppendUvarint(b, uint64(len(key))), key...)
			b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
		}
	}
	return b
}

// parseAnswer reads what END frames carried: a reply, or what code and text tell. The
// reply's body is part of b.
func parseAnswer(b []byte) (m transport.Message, refusal *refusal, err error) {
	if len(b) == 0 {
		return m, nil, errMalformed
	}
	form := b[0]
	b = b[1:]
	switch form {
	case formBare:
		m.Body = b
	case formHeader:
		if m.Header, m.Body, err = parseHeader(b); err != nil {
			return transport.Message{}, nil, err
		}
	case formRefused, formFailed:
		if len(b) == 0 {
			return m, nil, errMalformed
		}
		refusal = newRefusal(b, form == formRefused)
	default:
		return m, nil, errMalformed
	}
	m.Body = m.Body[:len(m.Body):len(m.Body)]
	return m, refusal, nil
}

// A refusal is an answer that is not the handler's reply.
type refusal struct {
	code       status.Code
	text       string
	notStarted bool
}

func newRefusal(b []byte, notStarted bool) *refusal {
	return &refusal{code: validCode(b[0]), text: validText(b[1:]), notStarted: notStarted}
}

func parseHeader(b []byte) (transport.Header, []byte, error) {
	count, b, err := number(b)
	if err != nil || count > uint64(len(b))/2 {
		return nil, nil, errMalformed
	}
	h := make(transport.Header)
	for range count {
		var pair [2]string
		for i := range pair {
			var n uint64
			if n, b, err = number(b); err != nil || n > uint64(len(b)) {
				return nil, nil, errMalformed
			}
			pair[i], b = string(b[:n]), b[n:]
		}
		h[pair[0]] = append(h[pair[0]], pair[1])
	}
	if wire.CheckHeader(h) != nil {
		return nil, nil, errMalformed
	}
	return h, b, nil
}
