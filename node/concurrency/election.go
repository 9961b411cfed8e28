package concurrency

import (
	"bytes"
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/proto/v3electionpb"
)

type electionServer struct {
	v3electionpb.UnimplementedElectionServer
	b Backend
}

// Campaign of one that is in the queue already proclaims the new value at once.
// The header is of the moment at which the campaign began, as etcd's.
func (s electionServer) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	lease, err := s.b.lease(ctx, r.GetLease())
	if err != nil {
		return nil, err
	}
	e, err := s.b.enter(ctx, r.GetName(), lease, r.GetValue())
	if err != nil {
		return nil, err
	}
	leader := &v3electionpb.LeaderKey{Name: r.GetName(), Key: e.key, Rev: e.rev, Lease: lease}
	if e.mine != nil && !bytes.Equal(e.mine.GetValue(), r.GetValue()) {
		if _, err := s.proclaim(ctx, leader, r.GetValue()); err != nil {
			s.b.leave(ctx, e.place)
			return nil, err
		}
	}
	if !e.first {
		if _, err := s.b.wait(ctx, e.place); err != nil {
			if errors.Is(err, errGone) {
				err = errLost
			}
			return nil, err
		}
	}
	return &v3electionpb.CampaignResponse{Header: e.header, Leader: leader}, nil
}

func (s electionServer) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	if r.GetLeader() == nil {
		return nil, errNoLeaderKey
	}
	header, err := s.proclaim(ctx, r.GetLeader(), r.GetValue())
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: header}, nil
}

// proclaim changes the value of a key that is still the one that was created at
// the revision. A leader that names no lease keeps the one its key has.
func (s electionServer) proclaim(ctx context.Context, leader *v3electionpb.LeaderKey, value []byte) (*pb.ResponseHeader, error) {
	resp, err := s.b.KV.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(leader.GetKey(), leader.GetRev())},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: leader.GetKey(), Value: value,
			Lease: leader.GetLease(), IgnoreLease: leader.GetLease() == 0}}}},
	})
	if err == nil && !resp.GetSucceeded() {
		err = errNotLeader
	}
	return resp.GetHeader(), err
}

// Resign does nothing to a leadership that has ended.
func (s electionServer) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if r.GetLeader() == nil {
		return nil, errNoLeaderKey
	}
	header, err := s.b.remove(ctx, r.GetLeader().GetKey(), r.GetLeader().GetRev())
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: header}, nil
}

func (s electionServer) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	resp, err := s.b.KV.Range(ctx, firstOf(prefixOf(r.GetName())))
	if err != nil {
		return nil, err
	}
	if len(resp.GetKvs()) == 0 {
		return nil, errNoLeader
	}
	return &v3electionpb.LeaderResponse{Header: resp.GetHeader(), Kv: resp.GetKvs()[0]}, nil
}

// observer is one call of Observe.
type observer struct {
	electionServer
	out  grpc.ServerStreamingServer[v3electionpb.LeaderResponse]
	told *mvccpb.KeyValue // last
}

// Observe tells what each leader proclaims, in order. What a leader proclaimed
// before it led, but the last, and what is compacted before it was read, is left
// out.
func (s electionServer) Observe(r *v3electionpb.LeaderRequest, out grpc.ServerStreamingServer[v3electionpb.LeaderResponse]) error {
	o := &observer{electionServer: s, out: out}
	prefix := prefixOf(r.GetName())
	for {
		kv, seen, err := o.await(out.Context(), prefix)
		if err == nil {
			err = o.tell(kv, seen)
		}
		if err == nil {
			err = o.until(out.Context(), kv.GetKey(), seen)
		}
		if err != nil && !errors.Is(err, errCompacted) {
			return err
		}
	}
}

// await gives the leader's key, and the revision as of which it is what it is.
func (o *observer) await(ctx context.Context, prefix []byte) (kv *mvccpb.KeyValue, seen int64, err error) {
	resp, err := o.b.read(ctx, firstOf(prefix))
	if err != nil {
		return nil, 0, err
	}
	seen = resp.GetHeader().GetRevision()
	if len(resp.GetKvs()) > 0 {
		return resp.GetKvs()[0], seen, nil
	}
	// Nobody is in the queue, so the next one leads.
	err = o.b.follow(ctx, func(ev *mvccpb.Event) (bool, error) {
		kv = ev.GetKv()
		return true, nil
	}, &pb.WatchCreateRequest{Key: prefix, RangeEnd: endOf(prefix), StartRevision: seen + 1,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})
	return kv, kv.GetModRevision(), err
}

// until tells what a leader proclaims after the revision, until its key is gone.
func (o *observer) until(ctx context.Context, key []byte, seen int64) error {
	return o.b.follow(ctx, func(ev *mvccpb.Event) (bool, error) {
		if ev.GetType() == mvccpb.Event_DELETE {
			return true, nil
		}
		return false, o.tell(ev.GetKv(), ev.GetKv().GetModRevision())
	}, &pb.WatchCreateRequest{Key: key, StartRevision: seen + 1})
}

// tell sends a key as it was at a revision, once. The next leader may have
// written before the last one did.
func (o *observer) tell(kv *mvccpb.KeyValue, revision int64) error {
	if bytes.Equal(kv.GetKey(), o.told.GetKey()) && kv.GetModRevision() <= o.told.GetModRevision() {
		return nil
	}
	o.told = kv
	header := o.b.Header()
	header.Revision = revision
	return o.out.Send(&v3electionpb.LeaderResponse{Header: header, Kv: kv})
}
