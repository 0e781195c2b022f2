// Package metadata carries key-value pairs beside a call's messages: request
// metadata from the client to the handler, response metadata back.
//
// The two sides of a program never mix. What a client sends is put into a context
// with [Append]; what a handler received is read with [Incoming]; a handler that
// calls another service passes nothing on unless it says so.
package metadata

import (
	"fmt"
	"iter"
	"slices"
)

// BinarySuffix ends the keys whose values are arbitrary bytes. All other values
// are printable ASCII.
const BinarySuffix = "-bin"

// MaxSize bounds the keys and values of one MD together, in bytes, as they are
// sent or received. More is refused with ResourceExhausted.
const MaxSize = 64 << 10

// An MD is an ordered list of key-value pairs; a key may stand in it more than
// once. Keys are case-insensitive: they are turned to lower case when they enter.
// The zero value is empty and ready to use. An MD is a reference like a slice:
// use [MD.Clone] for a copy, and do not change one while others read it.
type MD struct {
	pairs []pair
}

type pair struct{ key, value string }

// Pairs makes an MD of alternating keys and values. It panics when their number
// is odd, as that is a mistake in the program's text.
func Pairs(kv ...string) MD {
	var md MD
	md.addPairs(kv)
	return md
}

func (md *MD) addPairs(kv []string) {
	if len(kv)%2 != 0 {
		panic(fmt.Sprintf("metadata: %d strings are not pairs of key and value", len(kv)))
	}
	for i := 0; i < len(kv); i += 2 {
		md.Add(kv[i], kv[i+1])
	}
}

// Len is the number of pairs.
func (md MD) Len() int { return len(md.pairs) }

// Get is the first value of key, or "".
func (md MD) Get(key string) string {
	v, _ := md.Lookup(key)
	return v
}

// Lookup is the first value of key and whether there is one.
func (md MD) Lookup(key string) (string, bool) {
	for _, p := range md.pairs {
		if equalFold(p.key, key) {
			return p.value, true
		}
	}
	return "", false
}

// Values are all values of key in their order.
func (md MD) Values(key string) []string {
	var vs []string
	for _, p := range md.pairs {
		if equalFold(p.key, key) {
			vs = append(vs, p.value)
		}
	}
	return vs
}

// Add appends a pair.
func (md *MD) Add(key, value string) {
	md.pairs = append(md.pairs, pair{lower(key), value})
}

// Set puts one value in place of all that key has.
func (md *MD) Set(key, value string) {
	md.Del(key)
	md.Add(key, value)
}

// Del removes all pairs of key.
func (md *MD) Del(key string) {
	kept := md.pairs[:0:0]
	for _, p := range md.pairs {
		if !equalFold(p.key, key) {
			kept = append(kept, p)
		}
	}
	md.pairs = kept
}

// All ranges over the pairs in their order.
func (md MD) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, p := range md.pairs {
			if !yield(p.key, p.value) {
				return
			}
		}
	}
}

// Clone is a copy that shares nothing with md.
func (md MD) Clone() MD {
	return MD{pairs: append([]pair(nil), md.pairs...)}
}

// Reset empties md and keeps its memory for the next pairs.
func (md *MD) Reset() {
	clear(md.pairs)
	md.pairs = md.pairs[:0]
}

// lower turns A-Z to lower case and nothing else: outside ASCII there are letters,
// such as the Kelvin sign, whose lower case is within.
func lower(key string) string {
	for i := 0; i < len(key); i++ {
		if c := key[i]; 'A' <= c && c <= 'Z' {
			b := []byte(key)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return key
}

// clipped is md without spare capacity, so that what is added to a copy never lands
// in memory that others share.
func (md MD) clipped() MD {
	return MD{pairs: slices.Clip(md.pairs)}
}

// equalFold compares a key of an MD, which is in lower case, with one that a user
// wrote. Keys are ASCII.
func equalFold(stored, key string) bool {
	if len(stored) != len(key) {
		return false
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != stored[i] {
			return false
		}
	}
	return true
}
