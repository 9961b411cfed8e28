// Package peer carries Raft messages between the members of a cluster, over
// gRPC on the peer address (service chainfire.v1.Peer).
//
// # Connections
//
// A member opens one connection to each of its peers and sends on it; what the
// peer has to say comes on the connection that the peer opens. Every stream
// begins with a hello in both directions (chainfirev1.PeerHello, handshake
// format Version): each side checks that the other is who it thinks it is, and
// asks the node's own rules (Config.Check) before a single Raft message passes.
// A hello with another format version is refused.
//
// # Two lanes
//
// A connection has two streams, the lanes. The bulk lane carries MsgApp and
// forwarded proposals, the control lane everything else: heartbeats, votes and
// answers. They are two HTTP/2 streams of one connection, not one stream with
// a priority queue, for two reasons. A frame of a megabyte already handed to
// the transport can not be overtaken within its own stream, but gRPC
// interleaves the streams of a connection in pieces of 16 KiB, and the
// connection's flow-control window keeps the bytes in flight near the
// bandwidth-delay product, so a heartbeat waits for that and not for the
// queue. And a receiver that is busy storing entries stops reading the bulk
// stream alone. All MsgApp share the bulk lane, empty ones too: one that
// overtook the entries before it would be rejected and would throw the sender
// back to probing. Raft allows any order between the lanes.
//
// # Loss
//
// Send never blocks. A queue that is full drops the newest message, counts it
// and reports the peer as unreachable; so does a connection that ends. Raft
// sends again. A message counts as sent when it is handed to the connection,
// before its receiver can have it. MsgSnap is different: it goes out as the
// unary call InstallSnapshot, and Handler.SnapshotDone is called exactly once
// for each, whatever happens to the peer, the call or the transport.
//
// # Identity
//
// A hello carries the directory nonce and a nonce of this start of the process
// (boot nonce). While a stream of a member is live, a hello with the same ID
// and directory but another boot nonce is a copied directory started beside
// its original, and is refused with ErrCopied. After a crash of the whole
// machine the old streams live until keepalive finds them dead, so a restarted
// member can be refused for as long as ConflictSettles; only after that is the
// node told (Config.Refused). A removed member hears ErrRemoved at once.
package peer
