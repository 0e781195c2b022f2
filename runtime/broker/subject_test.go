package broker

import (
	"net/url"
	"strings"
	"testing"

	"github.com/protomicro/micro/runtime/status"
)

func TestSubject(t *testing.T) {
	for _, tc := range []struct {
		name string
		fill func(s *Subject)
		want string
	}{
		{"words", func(s *Subject) { s.Literal("orders."); s.String("region", "eu-west_1"); s.Literal(".placed") }, "orders.eu-west_1.placed"},
		{"escaped", func(s *Subject) { s.Literal("a."); s.String("v", "x.y z*>%/") }, "a.x%2Ey%20z%2A%3E%25%2F"},
		{"not ASCII", func(s *Subject) { s.String("v", "é\x00\xff") }, "%C3%A9%00%FF"},
		{"numbers", func(s *Subject) {
			s.Int("i", -7)
			s.Literal(".")
			s.Uint("u", 18446744073709551615)
			s.Literal(".")
			s.Bool("b", true)
		}, "-7.18446744073709551615.true"},
		{"any", func(s *Subject) { s.Literal("a."); s.Any(); s.Literal(".b") }, "a.*.b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewSubject("name")
			tc.fill(&s)
			if got, err := s.Topic(); err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestSubjectRefuses(t *testing.T) {
	s := NewSubject("orders.{region}.{shop.id}")
	s.Literal("orders.")
	s.String("region", "eu")
	s.String("shop.id", "")
	_, err := s.Topic()
	const want = `invalid_argument: topic "orders.{region}.{shop.id}": shop.id is empty in the event (set it before publishing)`
	if err == nil || err.Error() != want || status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("got %v; want %s", err, want)
	}
	s = NewSubject("a.{v}")
	s.Literal("a.")
	s.String("v", strings.Repeat(".", 400))
	const long = `invalid_argument: topic "a.{v}": the event's values make it 1202 bytes long (at most 1024)`
	if _, err := s.Topic(); err == nil || err.Error() != long {
		t.Errorf("got %v; want %s", err, long)
	}
}

// What is escaped can be read back, and is one word.
func FuzzSubjectWord(f *testing.F) {
	for _, v := range []string{"a", "a.b", "%41", "é", "\x00", "*", ">"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if value == "" || len(value) > 300 {
			return
		}
		s := NewSubject("n")
		s.String("v", value)
		word, err := s.Topic()
		if err != nil {
			t.Fatal(err)
		}
		if err := checkTopic(word, false); err != nil || strings.Contains(word, ".") {
			t.Errorf("%q is not one word: %v", word, err)
		}
		if back, err := url.PathUnescape(word); err != nil || back != value {
			t.Errorf("%q was read back as %q, %v", value, back, err)
		}
	})
}

func TestCheckTopic(t *testing.T) {
	for topic, want := range map[string]string{
		"a": "", "orders.eu%2E.placed": "",
		"":                          "the topic is empty",
		"a..b":                      `the topic "a..b" has an empty word`,
		".a":                        `the topic ".a" has an empty word`,
		"a.":                        `the topic "a." has an empty word`,
		"a.*":                       `the topic "a.*" has the character '*' (words are letters, digits, '-', '_' and '%')`,
		"a.>":                       `the topic "a.>" has the character '>' (words are letters, digits, '-', '_' and '%')`,
		"a b":                       `the topic "a b" has the character ' ' (words are letters, digits, '-', '_' and '%')`,
		strings.Repeat("x", 1025):   `the topic "` + strings.Repeat("x", 80) + `"... has 1025 bytes (at most 1024)`,
		"$JS.API.STREAM.DELETE.all": `the topic "$JS.API.STREAM.DELETE.all" has the character '$' (words are letters, digits, '-', '_' and '%')`,
	} {
		err := checkTopic(topic, false)
		switch {
		case want == "" && err != nil:
			t.Errorf("%.40q: %v", topic, err)
		case want != "" && (err == nil || status.From(err).Message() != want):
			t.Errorf("%.40q: got %v; want %s", topic, err, want)
		}
	}
	for _, pattern := range []string{"*", "a.*", "*.b.*"} {
		if err := checkTopic(pattern, true); err != nil {
			t.Errorf("%q: %v", pattern, err)
		}
	}
	for _, pattern := range []string{"a.**", "a*", ">", "a.>"} {
		if err := checkTopic(pattern, true); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%q: got %v", pattern, err)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"*", "a", true}, {"a.*", "a", false}, {"a", "a.b", false},
		{"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false}, {"*.*", "a.b", true}, {"*.*", "a.b.c", false},
	} {
		if got := Matches(tc.pattern, tc.topic); got != tc.want {
			t.Errorf("%s of %s: got %v", tc.pattern, tc.topic, got)
		}
	}
}
