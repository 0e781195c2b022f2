package nats

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
)

// Codes of JetStream's errors, from its list.
const (
	codeInsufficientResources = 10023
	codeStorageExceeded       = 10047
	codeMessageTooLarge       = 10054
	codeStoreFailed           = 10077
	codeHeaderTooLarge        = 10097
)

// An answer is what the server says of a message that was published.
type answer struct {
	stored     bool
	unanswered bool // no stream has the subject, or the one that has it has no leader
	again      bool // it is worth another attempt
	code       status.Code
	text       string
}

const headerStatus = "Status"

// parseAnswer reads m. It looks closely only where something is wrong.
func parseAnswer(m *natsgo.Msg) answer {
	if len(m.Data) == 0 && m.Header != nil && m.Header.Get(headerStatus) == "503" {
		return answer{unanswered: true, again: true, text: "no stream answers"}
	}
	if bytes.HasPrefix(m.Data, []byte(`{"stream":"`)) && !bytes.Contains(m.Data, []byte(`"error"`)) {
		return answer{stored: true}
	}
	var ack struct {
		Stream string
		Error  *struct {
			Code        int
			ErrCode     int `json:"err_code"`
			Description string
		}
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error == nil && ack.Stream == "" {
		// Somebody else answers on the subject, or a stream has taken the message
		// and another responder was quicker.
		return answer{code: status.FailedPrecondition, text: "the answer is none of JetStream (does another program reply on this subject?)"}
	}
	if ack.Error == nil {
		return answer{stored: true}
	}
	a := answer{code: status.FailedPrecondition, text: ack.Error.Description}
	switch ack.Error.ErrCode {
	case codeInsufficientResources, codeStorageExceeded, codeMessageTooLarge, codeHeaderTooLarge:
		a.code = status.ResourceExhausted
		return a
	case codeStoreFailed:
		if strings.Contains(a.text, "exceeded") {
			a.code = status.ResourceExhausted
			return a
		}
	}
	switch {
	case ack.Error.Code == http.StatusServiceUnavailable, ack.Error.Code == http.StatusTooManyRequests,
		ack.Error.Code == http.StatusRequestTimeout:
		a.again, a.code = true, status.Unavailable
	case ack.Error.Code >= http.StatusInternalServerError:
		a.code = status.Unavailable
	}
	return a
}
