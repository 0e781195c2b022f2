package main

import (
	"fmt"
	"slices"

	"github.com/protomicro/micro/bench/internal/peer"
	"github.com/protomicro/micro/bench/internal/report"
)

// A shape is what the clients of a workload do.
type shape int

const (
	shapeCall shape = iota
	shapeStream
	shapePublish
	shapeOpen  // calls while streams are open
	shapeTurns // one message at a time there and back, on one stream
	shapeTimed // one event at a time
)

// A workload is done by its peers in each of its cells.
type workload struct {
	name, about string
	unit        string // what is counted
	shape       shape
	kind        peer.Kind // of streams
	peers       []peer.Peer
	cells       []cell
	short       []cell // with -short
}

// A cell is one point of a workload. Zero is where it does not apply.
type cell struct {
	Payload   int // bytes
	Callers   int
	Services  int
	Instances int
	Streams   int // open
}

func (c cell) setup() peer.Setup {
	return peer.Setup{Payload: c.Payload, Callers: max(c.Callers, 1), Services: max(c.Services, 1), Instances: max(c.Instances, 1)}
}

// result has what the results of a cell have in common.
func (c cell) result(w *workload) report.Result {
	return report.Result{
		Workload: w.name, About: w.about, Unit: w.unit,
		Payload: c.Payload, Callers: c.Callers, Services: c.Services, Instances: c.Instances, Streams: c.Streams,
	}
}

// maxInFlight bounds payload times callers: nats.go drops replies of which more than
// 64 MiB wait for its client. A cell beyond it is left out.
const maxInFlight = 64 << 20

func unaryCells() (cells []cell) {
	for _, payload := range []int{64, 1 << 10, 64 << 10, 1 << 20} {
		for _, callers := range []int{1, 8, 64, 256, 1024} {
			if payload*callers <= maxInFlight {
				cells = append(cells, cell{Payload: payload, Callers: callers})
			}
		}
	}
	return cells
}

// Growth is measured with calls like these.
const (
	growthPayload = 64
	growthCallers = 8
)

func growthCells(set func(*cell, int), values ...int) (cells []cell) {
	for _, v := range values {
		c := cell{Payload: growthPayload, Callers: growthCallers}
		set(&c, v)
		cells = append(cells, c)
	}
	return cells
}

func services(values ...int) []cell {
	return growthCells(func(c *cell, v int) { c.Services = v }, values...)
}

func instances(values ...int) []cell {
	return growthCells(func(c *cell, v int) { c.Instances = v }, values...)
}

func streams(values ...int) []cell {
	return growthCells(func(c *cell, v int) { c.Streams = v }, values...)
}

func streamPeers() []peer.Peer {
	return []peer.Peer{
		peer.Raw(), peer.GRPC(), peer.Connect(), peer.DRPC(), peer.ConnectToMicro(),
		peer.Memory.Proto(), peer.NATS.Proto(), peer.HTTP.Proto(), peer.HTTPConnect.Proto(),
	}
}

// bothWays are those that have streams in both directions: psrpc has no other ones.
func bothWays() []peer.Peer { return slices.Insert(streamPeers(), 1, peer.PSRPC()) }

func corePeers() []peer.Peer {
	return []peer.Peer{
		peer.RawCore(false), peer.RawCore(true), peer.WatermillCore(),
		peer.MicroCore(1, false), peer.MicroCore(16, false), peer.MicroCore(1, true),
	}
}

// workloads are all there are. The first peer of each is what others are set in
// proportion to, where it is nats.go.
func workloads() []*workload {
	ws := []*workload{{
		name: "unary", about: "calls that answer with what they were sent", unit: "calls",
		peers: []peer.Peer{
			peer.Raw(), peer.NATSMicro(), peer.NATSMicroProto(), peer.PSRPC(), peer.PSRPCSkipClaim(),
			peer.GRPC(), peer.Connect(), peer.ConnectGzip(), peer.DRPC(), peer.ConnectToMicro(),
			peer.Memory.Proto(), peer.Memory.JSON(), peer.NATS.Proto(), peer.NATS.JSON(),
			peer.HTTP.Proto(), peer.HTTP.JSON(), peer.HTTPConnect.Proto(), peer.HTTPConnect.JSON(),
		},
		cells: unaryCells(),
		short: []cell{{Payload: 1 << 10, Callers: 8}, {Payload: 1 << 20, Callers: 1}},
	}}
	for _, kind := range []struct {
		kind  peer.Kind
		about string
	}{
		{peer.Down, "messages of 256 B from server to client on one stream"},
		{peer.Up, "messages of 256 B from client to server on one stream"},
		{peer.Both, "messages of 256 B to the server and back on one stream, without waiting for each"},
	} {
		peers := streamPeers()
		if kind.kind == peer.Both {
			peers = bothWays()
		}
		ws = append(ws, &workload{
			name: "stream-" + string(kind.kind), about: kind.about, unit: "messages", shape: shapeStream, kind: kind.kind,
			peers: peers, cells: []cell{{}}, short: []cell{{}},
		})
	}
	return append(ws, &workload{
		name: "stream-latency", about: "a message of 256 B to the server and back, one at a time, on a stream that is open", unit: "round trips", shape: shapeTurns,
		peers: bothWays(), cells: []cell{{}}, short: []cell{{}},
	}, &workload{
		name: "events-core", about: "events of 256 B, at most once", unit: "events", shape: shapePublish,
		peers: corePeers(), cells: []cell{{}}, short: []cell{{}},
	}, &workload{
		name: "events-jetstream", about: "events of 256 B, stored in files and acknowledged, at least once", unit: "events", shape: shapePublish,
		peers: []peer.Peer{
			peer.RawJetStream(false), peer.RawJetStream(true), peer.WatermillJetStream(1), peer.WatermillJetStream(64), peer.MicroJetStream(),
		},
		cells: []cell{{}}, short: []cell{{}},
	}, &workload{
		name: "events-core-latency", about: "from publishing an event of 256 B to its handler, one at a time, at most once", unit: "events", shape: shapeTimed,
		peers: corePeers(), cells: []cell{{}}, short: []cell{{}},
	}, &workload{
		name: "events-jetstream-latency", about: "the same, stored in files and acknowledged, at least once", unit: "events", shape: shapeTimed,
		peers: []peer.Peer{peer.RawJetStream(false), peer.RawJetStream(true), peer.WatermillJetStream(1), peer.MicroJetStream()},
		cells: []cell{{}}, short: []cell{{}},
	}, &workload{
		name: "services", about: "calls to all services of a process in turn", unit: "calls",
		peers: []peer.Peer{
			peer.Raw(), peer.NATSMicro(), peer.GRPC(), peer.Connect(), peer.DRPC(),
			peer.Memory.Proto(), peer.NATS.Proto(), peer.HTTP.Proto(),
		},
		cells: services(1, 10, 100, 1000), short: services(10),
	}, &workload{
		name: "instances", about: "calls to one of the instances of a service", unit: "calls",
		peers: []peer.Peer{
			peer.Raw(), peer.NATSMicro(), peer.Memory.Proto(), peer.NATS.Proto(), peer.HTTP.Proto(),
		},
		cells: instances(1, 10, 100, 1000), short: instances(10),
	}, &workload{
		name: "open-streams", about: "calls while streams are open on which nothing happens", unit: "calls", shape: shapeOpen,
		peers: []peer.Peer{
			peer.GRPC(), peer.Connect(), peer.DRPC(), peer.Memory.Proto(), peer.NATS.Proto(), peer.HTTP.Proto(),
		},
		cells: streams(1, 10, 100, 1000, 10_000), short: streams(100),
	})
}

// find is the peer of a workload.
func find(workloadName, peerName string) (*workload, *peer.Peer, error) {
	ws := workloads()
	i := slices.IndexFunc(ws, func(w *workload) bool { return w.name == workloadName })
	if i < 0 {
		return nil, nil, fmt.Errorf("no workload is called %q", workloadName)
	}
	j := slices.IndexFunc(ws[i].peers, func(p peer.Peer) bool { return p.Name == peerName })
	if j < 0 {
		return nil, nil, fmt.Errorf("the workload %s has no peer %q", workloadName, peerName)
	}
	return ws[i], &ws[i].peers[j], nil
}
