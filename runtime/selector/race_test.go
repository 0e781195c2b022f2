//go:build race

package selector

// raced says that the race detector makes everything several times slower.
const raced = true
