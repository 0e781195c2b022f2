package child

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// maxLine bounds an order.
const maxLine = 1 << 20

// Serve answers each line of in by what handle makes of it, one after the other, until
// in ends. The context of handle ends then as well.
func Serve(ctx context.Context, in io.Reader, out io.Writer, handle func(ctx context.Context, order json.RawMessage) (any, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan json.RawMessage)
	var broken error // to be read after lines is closed
	go func() {
		defer close(lines)
		defer cancel()
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			select {
			case lines <- append(json.RawMessage(nil), scanner.Bytes()...):
			case <-ctx.Done():
				return
			}
		}
		broken = scanner.Err()
	}()
	enc := json.NewEncoder(out)
	for line := range lines {
		var e envelope
		value, err := handle(ctx, line)
		if err == nil {
			e.Value, err = json.Marshal(value)
		}
		if err != nil {
			e = envelope{Error: errorText(err)}
		}
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return broken
}

// errorText is never empty: that would be no error.
func errorText(err error) string {
	if text := err.Error(); text != "" {
		return text
	}
	return "an error without a text"
}
