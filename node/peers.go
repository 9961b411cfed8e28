package node

import (
	"context"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node/peer"
	"github.com/chainfire/cfseed/node/replica"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// peers is what the transport between members asks of the node: who we are,
// whom we talk to, and what to do with what arrives.
type peers struct {
	self      *identityBox
	boot      ident.Nonce
	name      string
	peerURLs  []string
	clientURL []string
	state     *stateBox
	core      *core
	installer *installer
	learned   func(id uint64, urls []string) // a peer's present addresses
}

// hello is this member's side of the handshake.
func (p *peers) hello() *chainfirev1.PeerHello {
	id := p.self.get()
	return &chainfirev1.PeerHello{
		ClusterId: id.Cluster.ID, GenesisNonce: id.Cluster.Genesis.Bytes(), From: id.MemberID,
		DirectoryNonce: id.Directory.Bytes(), BootNonce: p.boot.Bytes(),
		PeerUrls: p.peerURLs, ClientUrls: p.clientURL, Name: p.name,
	}
}

// check decides whether a remote of this cluster may talk to us (S4): not
// removed, and the directory its ID is bound to.
func (p *peers) check(remote *chainfirev1.PeerHello) error {
	const op = "peer handshake"
	rec := p.state.machine().Member(remote.GetFrom())
	switch {
	case rec == nil:
		return nil // not applied here yet; Raft ignores who is not in the configuration
	case rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED:
		return fault.New(fault.Refused, op, peer.ErrRemoved).
			WithHint("member %s was removed; start it with an empty directory under a new ID", ident.FormatID(remote.GetFrom()))
	case len(rec.GetDirectoryNonce()) > 0 && string(rec.GetDirectoryNonce()) != string(remote.GetDirectoryNonce()):
		return fault.New(fault.Refused, op, peer.ErrReplaced).
			WithHint("the directory of member %[1]s was lost or replaced: run `cfseed member remove %[1]s`, then join with an empty directory",
				ident.FormatID(remote.GetFrom()))
	}
	return nil
}

// Step hands a message to Raft. What Raft does not want is dropped, as a
// network may drop it.
func (p *peers) Step(_ context.Context, m *raftpb.Message) error {
	p.core.post(func(r *replica.Replica) error { return r.Step(m) })
	return nil
}

// InstallSnapshot fetches the files of a Raft snapshot, then steps the message.
func (p *peers) InstallSnapshot(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, m *raftpb.Message) error {
	return p.installer.install(ctx, req, m)
}

// Unreachable tells Raft that a message to id was lost.
func (p *peers) Unreachable(id uint64) {
	p.core.post(func(r *replica.Replica) error { return r.ReportUnreachable(id) })
}

// SnapshotDone tells Raft how the one MsgSnap to id ended.
func (p *peers) SnapshotDone(id uint64, ok bool) {
	status := raft.SnapshotFailure
	if ok {
		status = raft.SnapshotFinish
	}
	p.core.post(func(r *replica.Replica) error { return r.ReportSnapshot(id, status) })
}

// Learned is what a peer says of itself. Name and client addresses it publishes
// through the log; peer addresses are what it takes to get there.
func (p *peers) Learned(id uint64, peerURLs []string, _ string, _ []string) { p.learned(id, peerURLs) }

// conns keeps one connection a URL; all are closed together.
type conns struct {
	dial   func(ctx context.Context, url string) (*grpc.ClientConn, error)
	mu     sync.Mutex
	open   map[string]*grpc.ClientConn
	closed bool
}

func (c *conns) get(ctx context.Context, url string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errStopping()
	}
	if conn, ok := c.open[url]; ok {
		return conn, nil
	}
	conn, err := c.dial(ctx, url)
	if err != nil {
		return nil, err
	}
	if c.open == nil {
		c.open = map[string]*grpc.ClientConn{}
	}
	c.open[url] = conn
	return conn, nil
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		conn.Close() //nolint:errcheck // only idle connections are left
	}
	c.open, c.closed = nil, true
}
