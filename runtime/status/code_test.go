package status_test

import (
	"testing"

	"github.com/protomicro/micro/runtime/status"
)

// The numbers and names of google.rpc.Code.
var codes = map[status.Code]string{
	0: "ok", 1: "canceled", 2: "unknown", 3: "invalid_argument", 4: "deadline_exceeded", 5: "not_found",
	6: "already_exists", 7: "permission_denied", 8: "resource_exhausted", 9: "failed_precondition", 10: "aborted",
	11: "out_of_range", 12: "unimplemented", 13: "internal", 14: "unavailable", 15: "data_loss", 16: "unauthenticated",
}

func TestCodes(t *testing.T) {
	for c, name := range codes {
		if c.String() != name || c.Error() != name || !c.Valid() {
			t.Errorf("code %d is %q, %q, valid %v; want %q", uint32(c), c.String(), c.Error(), c.Valid(), name)
		}
		if got, ok := status.ParseCode(name); got != c || !ok {
			t.Errorf("ParseCode(%q) = %v, %v", name, got, ok)
		}
	}
	for _, c := range []status.Code{17, 99, 1<<32 - 1} {
		if c.Valid() {
			t.Errorf("%d is valid", uint32(c))
		}
	}
	if got := status.Code(17).String(); got != "code_17" {
		t.Errorf("code 17 is %q", got)
	}
	for _, name := range []string{"", "NOT_FOUND", "Not_found", "cancelled", "code_17", "17", "not_found "} {
		if got, ok := status.ParseCode(name); ok || got != status.Unknown {
			t.Errorf("ParseCode(%q) = %v, %v", name, got, ok)
		}
	}
}
