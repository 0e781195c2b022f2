//go:build !race

package selector

const raced = false
