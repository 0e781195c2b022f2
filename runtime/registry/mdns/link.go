package mdns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
)

// A link is where packets go and come from: one interface of the host. What is sent
// to the group comes back as well.
type link interface {
	// send sends to all who listen, or to one. It never waits.
	send(message []byte, to netip.AddrPort) error
	// receive waits for a packet. An error is the end.
	receive(buf []byte) (n int, source netip.AddrPort, err error)
	// address is the host's on the link.
	address() netip.Addr
	// near says whether an address is of the same network.
	near(netip.Addr) bool
	close() error
}

// A packet is what came over a link.
type packet struct {
	from   link
	source netip.AddrPort
	data   []byte
}

const port = 5353

var group = netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), port)

// A socket is a link over UDP. The port is shared with whoever speaks multicast DNS
// on the host; each gets all that is sent to the group.
type socket struct {
	conn    *net.UDPConn
	packets *ipv4.PacketConn
	control ipv4.ControlMessage // sends from the interface and its address
	marked  bool                // packets say which interface they came by
	network netip.Prefix
}

func openSocket(name string) (link, error) {
	ifi, err := findInterface(name)
	if err != nil {
		return nil, err
	}
	network, err := ipv4Network(ifi)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenMulticastUDP("udp4", ifi, net.UDPAddrFromAddrPort(group))
	if err != nil {
		return nil, fmt.Errorf("listen to %v on the interface %s: %w (multicast has to be allowed there, "+
			"and other programs on UDP port %d have to share it)", group, ifi.Name, err, port)
	}
	s := &socket{
		conn:    conn,
		packets: ipv4.NewPacketConn(conn),
		control: ipv4.ControlMessage{IfIndex: ifi.Index, Src: network.Addr().AsSlice()},
		network: network,
	}
	err = errors.Join(
		s.packets.SetMulticastInterface(ifi),
		s.packets.SetMulticastLoopback(true), // other processes of the host are to hear it
		s.packets.SetMulticastTTL(255),
	)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("multicast on the interface %s: %w", ifi.Name, err)
	}
	// Systems may hand over what came by another interface, where some other program
	// listens. Not all can say so; there the source's address has to do.
	s.marked = s.packets.SetControlMessage(ipv4.FlagInterface, true) == nil
	_ = conn.SetReadBuffer(1 << 20) // many answer one question; the system may allow less
	return s, nil
}

func findInterface(name string) (*net.Interface, error) {
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("Config.Interface %q: %w (%s)", name, err, interfaceNames())
		}
		return ifi, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("find the loopback interface: %w", err)
	}
	for _, ifi := range all {
		if ifi.Flags&net.FlagLoopback != 0 && ifi.Flags&net.FlagUp != 0 {
			return &ifi, nil
		}
	}
	return nil, fmt.Errorf("no loopback interface is up: set Config.Interface (%s)", interfaceNames())
}

func interfaceNames() string {
	all, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	text := "there are:"
	for _, ifi := range all {
		text += " " + ifi.Name
	}
	return text
}

// ipv4Network is the interface's first address with its network.
func ipv4Network(ifi *net.Interface) (netip.Prefix, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("the addresses of the interface %s: %w", ifi.Name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("the interface %s has no IPv4 address, and only IPv4 is used (choose another by Config.Interface)", ifi.Name)
}

func (s *socket) send(message []byte, to netip.AddrPort) error {
	control := s.control
	_, err := s.packets.WriteTo(message, &control, net.UDPAddrFromAddrPort(to))
	return err
}

func (s *socket) receive(buf []byte) (int, netip.AddrPort, error) {
	for {
		n, control, from, err := s.packets.ReadFrom(buf)
		if err != nil {
			return 0, netip.AddrPort{}, err
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		source := udp.AddrPort()
		source = netip.AddrPortFrom(source.Addr().Unmap(), source.Port())
		if s.marked && control != nil && control.IfIndex != s.control.IfIndex || !s.marked && !s.near(source.Addr()) {
			continue
		}
		return n, source, nil
	}
}

func (s *socket) address() netip.Addr { return s.network.Addr() }

func (s *socket) near(a netip.Addr) bool { return s.network.Contains(a) }

func (s *socket) close() error { return s.conn.Close() }
