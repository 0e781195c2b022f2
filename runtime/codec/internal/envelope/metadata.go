package envelope

import (
	"unicode/utf8"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

// A Collector adds the pairs that a peer sent to an MD. It bounds them, so that
// they take memory in proportion to the frame; whether they are right is for
// [metadata.MD.Validate] to say.
type Collector struct{ size int }

// Add appends one pair to md.
func (c *Collector) Add(md *metadata.MD, key, value string) error {
	if key == "" {
		return status.New(status.InvalidArgument, "a metadata key is empty")
	}
	if !utf8.ValidString(key) {
		return status.Errorf(status.InvalidArgument, "the metadata key %.80q is not UTF-8", key)
	}
	c.size += len(key) + len(value)
	if c.size > metadata.MaxSize {
		return status.Errorf(status.ResourceExhausted, "metadata is over the limit of %d bytes", metadata.MaxSize)
	}
	md.Add(key, value)
	return nil
}
