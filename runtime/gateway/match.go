package gateway

import (
	"fmt"
	"path"
	"slices"
)

// Match is a Config.Expose for the services whose full names match one of the patterns,
// in which "*" stands for any characters, dots included, and "?" for one: "greet.v1.*".
// An error names the pattern that is none.
func Match(patterns ...string) (func(service string) bool, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return nil, fmt.Errorf("gateway: %q is no pattern of services (such as greet.v1.Greeter, greet.v1.* or *)", p)
		}
	}
	patterns = slices.Clone(patterns)
	return func(service string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := path.Match(p, service)
			return ok && err == nil
		})
	}, nil
}
