package peer

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Version is the handshake format spoken.
const Version = 1

// Bounds on what a hello may carry.
const (
	maxURLs   = 32
	maxURLLen = 2048
	maxName   = 1024
)

// hello is what this member says of itself to the peer with the given ID.
func (t *Transport) hello(to uint64) *chainfirev1.PeerHello {
	h := proto.CloneOf(t.cfg.Self())
	h.Version = Version
	h.To = to
	return h
}

// checkHello holds the remote's hello against the format, this member's own
// identity and the node's rules. expect is the ID that was dialled, 0 on the
// accepting side.
func (t *Transport) checkHello(h *chainfirev1.PeerHello, expect uint64) error {
	if err := wellFormed(h); err != nil {
		return err
	}
	self := t.cfg.Self()
	if err := sameCluster(self, h); err != nil {
		return err // first: IDs of two clusters do not compare
	}
	switch {
	case h.GetTo() != self.GetFrom():
		return fault.Newf(fault.Refused, opHello, "the peer looks for member %s, this is %s",
			ident.FormatID(h.GetTo()), ident.FormatID(self.GetFrom())).
			WithHint("a peer URL points at the wrong process; see `cfseed member list`")
	case h.GetFrom() == self.GetFrom() && !bytes.Equal(h.GetBootNonce(), self.GetBootNonce()):
		return fault.New(fault.Refused, opHello, ErrCopied)
	case h.GetFrom() == self.GetFrom():
		return fault.Newf(fault.Refused, opHello, "member %s called itself", ident.FormatID(h.GetFrom()))
	case expect != 0 && h.GetFrom() != expect:
		return fault.Newf(fault.Refused, opHello, "member %s answers at the URL of %s",
			ident.FormatID(h.GetFrom()), ident.FormatID(expect)).
			WithHint("a peer URL points at the wrong process; see `cfseed member list`")
	}
	return t.cfg.Check(h)
}

// sameCluster holds the remote's cluster against this member's (S4).
func sameCluster(self, remote *chainfirev1.PeerHello) error {
	own, err := clusterOf(self)
	if err != nil {
		return err
	}
	theirs, err := clusterOf(remote)
	if err != nil || own.Same(theirs) {
		return err
	}
	return fault.New(fault.Refused, opHello, ErrOtherCluster).
		WithHint("member %s is of cluster %s (%s), member %s of %s (%s): check --initial-cluster and --initial-cluster-token; "+
			"to join a cluster that is there, start with an empty --data-dir and --join",
			ident.FormatID(remote.GetFrom()), ident.FormatID(theirs.ID), theirs.Genesis,
			ident.FormatID(self.GetFrom()), ident.FormatID(own.ID), own.Genesis)
}

func clusterOf(h *chainfirev1.PeerHello) (ident.Cluster, error) {
	genesis, err := ident.NonceFrom(h.GetGenesisNonce())
	if err != nil {
		return ident.Cluster{}, fault.New(fault.Refused, opHello, err)
	}
	return ident.Cluster{ID: h.GetClusterId(), Genesis: genesis}, nil
}

// wellFormed bounds everything in a hello.
func wellFormed(h *chainfirev1.PeerHello) error {
	if h == nil {
		return fault.Newf(fault.Refused, opHello, "the first frame is not a hello")
	}
	if h.GetVersion() != Version {
		return fault.Newf(fault.Refused, opHello, "handshake format %d, this program knows %d", h.GetVersion(), Version).
			WithHint("run the same release of cfseed on every member")
	}
	if h.GetFrom() == 0 {
		return fault.Newf(fault.Refused, opHello, "the hello names no member")
	}
	for _, n := range [][]byte{h.GetBootNonce(), h.GetDirectoryNonce()} {
		if len(n) != len(ident.Nonce{}) {
			return fault.Newf(fault.Refused, opHello, "nonce of %d bytes in the hello", len(n))
		}
	}
	if _, err := ident.NonceFrom(h.GetGenesisNonce()); err != nil {
		return fault.New(fault.Refused, opHello, err)
	}
	urls := append(append([]string(nil), h.GetPeerUrls()...), h.GetClientUrls()...)
	if len(urls) > maxURLs || len(h.GetName()) > maxName {
		return fault.Newf(fault.Refused, opHello, "hello with %d URLs and a name of %d bytes", len(urls), len(h.GetName()))
	}
	for _, u := range urls {
		if len(u) > maxURLLen {
			return fault.Newf(fault.Refused, opHello, "hello with a URL of %d bytes", len(u))
		}
	}
	return nil
}
