package http

import (
	"net"
	"strconv"
	"strings"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// hostPort reports whether s is a host, by name or IP address, and a port.
func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port) {
		return false
	}
	if strings.HasPrefix(s, "[") {
		return strings.Contains(host, ":") && net.ParseIP(host) != nil
	}
	return wire.DottedName(host)
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && s[0] != '0'
}

// advertised is where others reach a listener.
func (cfg Config) advertised(l net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(l.String())
	if err != nil {
		return "", status.Errorf(status.Internal, "http: listen: the address %s has no port", l)
	}
	if cfg.AdvertisedAddress == "" {
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			return "", status.Errorf(status.InvalidArgument,
				"http: listen: %s is no address for others (set Config.AdvertisedAddress)", cfg.ListenAddress)
		}
		return l.String(), nil
	}
	host, given, err := net.SplitHostPort(cfg.AdvertisedAddress)
	if err == nil && given != "0" {
		port = given
	}
	address := net.JoinHostPort(host, port)
	if err != nil || !hostPort(address) {
		return "", status.Errorf(status.InvalidArgument,
			"http: listen: Config.AdvertisedAddress %.200q is not a host and a port", cfg.AdvertisedAddress)
	}
	return address, nil
}

// parseAddress is the host and port of an address with a scheme.
func parseAddress(addr transport.Address, scheme string) (string, error) {
	if addr.Scheme() == scheme && hostPort(addr.Rest()) {
		return addr.Rest(), nil
	}
	text := "dial: %.200q is no address of this transport (%s:HOST:PORT)"
	if _, ok := addr.Service(); ok {
		text = "dial: HTTP does not know where %.200q is (give the client a registry, or the call an address %s:HOST:PORT)"
	}
	return "", status.Errorf(status.InvalidArgument, text, addr, scheme).WithCause(transport.ErrNotStarted)
}
