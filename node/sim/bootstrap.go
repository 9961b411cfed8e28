package sim

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
)

// peerURL is a node's address in the member table.
func peerURL(name string) string { return "http://" + name + ":2380" }

// Bootstrap founds the cluster with these nodes, and starts them.
func (c *Cluster) Bootstrap(names ...string) error {
	if c.cluster.ID != 0 {
		return fault.Newf(fault.Refused, "bootstrap", "the cluster exists")
	}
	c.cluster = ident.Cluster{ID: 0xc1}
	entries, err := foundingEntries(names)
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.nodes[name] != nil {
			return fault.Newf(fault.Usage, "bootstrap", "%s is named twice", name)
		}
		n := c.newNode(name)
		if err := n.found(idOf(name), entries); err != nil {
			return err
		}
		if err := n.open(); err != nil {
			return err
		}
	}
	return nil
}

// foundingEntries are the first entries of the log, alike on all founders.
func foundingEntries(names []string) ([]*raftpb.Entry, error) {
	names = slices.Sorted(slices.Values(names))
	var out []*raftpb.Entry
	for i, name := range names {
		id := idOf(name)
		body, err := proto.Marshal(&entryv1.BootstrapVoter{Id: id, Name: name, PeerUrls: []string{peerURL(name)}})
		if err != nil {
			return nil, err
		}
		data, err := proto.Marshal(&raftpb.ConfChange{
			Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id,
			Context: envelope.Envelope{Kind: envelope.BootstrapVoter, Body: body}.Append(nil),
		})
		if err != nil {
			return nil, err
		}
		out = append(out, &raftpb.Entry{
			Term: proto.Uint64(1), Index: proto.Uint64(uint64(i) + 1), Type: raftpb.EntryConfChange.Enum(), Data: data,
		})
	}
	return out, nil
}

// found fills the node's directory as a founder's.
func (n *Node) found(member uint64, entries []*raftpb.Entry) error {
	d := n.dir()
	if err := d.Begin(); err != nil {
		return err
	}
	if err := raftlog.Bootstrap(d.Raft(), n.logOptions(), entries, 1); err != nil {
		return err
	}
	if err := n.openState(1); err != nil {
		return err
	}
	if err := n.closeState(); err != nil {
		return err
	}
	id := datadir.Identity{Cluster: n.c.cluster, MemberID: member, Directory: n.c.nonce(), Name: n.name}
	if err := d.CommitIdentity(id); err != nil {
		return err
	}
	return d.RemoveStaging()
}
