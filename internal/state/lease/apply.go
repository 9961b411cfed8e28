package lease

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/store"
)

// Batch is what entries need: the store.Batch of one of them.
type Batch interface {
	Reader
	Writer
	Revisions() (current, compacted int64, err error)
}

var _ Batch = (*store.Batch)(nil)

// Change is what an entry did to one lease, for the leader's timers.
type Change struct {
	Lease
	Gone bool // revoked; only the ID is set
}

// Grant carries out a grant. A time to live below one second is one second.
func Grant(b Batch, req *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, []Change, error) {
	switch {
	case req.GetID() == 0:
		return nil, nil, rpctypes.ErrGRPCLeaseNotFound
	case req.GetTTL() > MaxTTL:
		return nil, nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	_, exists, err := Find(b, req.GetID())
	switch {
	case err != nil:
		return nil, nil, err
	case exists:
		return nil, nil, rpctypes.ErrGRPCLeaseExist
	}
	l := Lease{ID: req.GetID(), TTL: max(req.GetTTL(), 1)}
	if err := put(b, l); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.LeaseGrantResponse{Header: h, ID: l.ID, TTL: l.TTL}, []Change{{Lease: l}}, err
}

// Revoke ends a lease. del deletes the lease's keys, given in order, in one
// revision, and detaches them.
func Revoke(b Batch, req *pb.LeaseRevokeRequest, del func(keys [][]byte) error) (*pb.LeaseRevokeResponse, []Change, error) {
	_, exists, err := Find(b, req.GetID())
	switch {
	case err != nil:
		return nil, nil, err
	case !exists:
		return nil, nil, rpctypes.ErrGRPCLeaseNotFound
	}
	keys, err := Keys(b, req.GetID())
	if err != nil {
		return nil, nil, err
	}
	if err := del(keys); err != nil {
		return nil, nil, err
	}
	if err := b.Delete(store.Lease, idKey(req.GetID())); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.LeaseRevokeResponse{Header: h}, []Change{{Lease: Lease{ID: req.GetID()}, Gone: true}}, err
}

// Checkpoint notes how much is left of leases, or with 0 that one was renewed.
// Leases that are gone are passed over.
func Checkpoint(b Batch, req *pb.LeaseCheckpointRequest) (*pb.LeaseCheckpointResponse, []Change, error) {
	var out []Change
	for _, c := range req.GetCheckpoints() {
		l, exists, err := Find(b, c.GetID())
		if err != nil {
			return nil, nil, err
		}
		if !exists {
			continue
		}
		l.Remaining = min(max(c.GetRemaining_TTL(), 0), l.TTL)
		if err := put(b, l); err != nil {
			return nil, nil, err
		}
		out = append(out, Change{Lease: l})
	}
	h, err := header(b)
	return &pb.LeaseCheckpointResponse{Header: h}, out, err
}

func put(w Writer, l Lease) error { return w.Set(store.Lease, idKey(l.ID), l.encode()) }

func header(b Batch) (*pb.ResponseHeader, error) {
	current, _, err := b.Revisions()
	return &pb.ResponseHeader{Revision: current}, err
}
