package natsconn_test

import (
	"testing"

	"github.com/protomicro/micro/runtime/internal/natsconn"
)

func TestWithoutCredentials(t *testing.T) {
	for in, want := range map[string]string{
		"nats://host:4222":                             "nats://host:4222",
		"nats://user:secret@host:4222":                 "nats://host:4222",
		"tls://token@host":                             "tls://host",
		"nats://u:secret@a:1, nats://u:secret@[::1]:2": "nats://a:1, nats://[::1]:2",
		"host:4222":                                    `"host:4222"`,
		"user:secret@host:4222":                        `"host:4222"`,
		"nats://user:sec%ret@host":                     `"host"`,
		"nats://user:sec@ret@host:x":                   `"host:x"`,
		"":                                             `""`,
		"nats://user:secret@a:4222, tls://token@b:1":   "nats://a:4222, tls://b:1",
		"token@c:4222":                                 `"c:4222"`,
	} {
		if got := natsconn.WithoutCredentials(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}
