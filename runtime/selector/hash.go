package selector

// hash is a 64-bit hash that is the same in every process and every release, so that
// all clients agree on where a key belongs.
func hash(s string) uint64 {
	h := uint64(len(s))
	for len(s) >= 8 {
		h = mix(h ^ (uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56))
		s = s[8:]
	}
	var tail uint64
	for i := range len(s) {
		tail |= uint64(s[i]) << (8 * i)
	}
	return mix(h ^ tail + golden)
}

const golden = 0x9e3779b97f4a7c15

// mix spreads every bit of x over all bits of the result (the finalizer of SplitMix64,
// Steele, Lea and Flood 2014). Different numbers have different results.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
