// Package concurrency serves etcd's Lock and Election over keys, leases and
// watches, as a client of etcd that does the same would use them: everything
// that is remembered is keys.
//
// # Keys
//
// Whoever wants name writes one key, attached to a lease:
//
//	name "/" lease in hex
//
// The keys under name "/" are a queue in the order of their create revisions.
// The first holds the lock or leads the election; each of the others waits until
// all before it are gone. It goes itself when it is deleted or its lease ends.
// This is the layout of etcd's client/v3/concurrency, so that both exclude each
// other.
//
// # Ends of a wait
//
// A call that does not get what it waits for leaves the queue. (etcd leaves the
// key of a campaign that fails for another reason than its caller there.) An
// election of the cluster ends no wait; at etcd a read that meets one does. A
// call whose own key is gone is told at once; etcd tells a lock so when its turn
// has come, and a campaign never.
package concurrency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// sessionTTL is that of a lease that the caller does not bring, in seconds;
	// etcd's number.
	sessionTTL = 60

	// leavePatience bounds how long a call that has ended takes to leave the queue.
	// What it can not delete is deleted with its lease.
	leavePatience = 5 * time.Second

	// rereadAfter is the pause before a read is tried again that found no leader:
	// a tenth of etcd's election timeout.
	rereadAfter = 100 * time.Millisecond
)

// KV is etcd's service, of the member that serves.
type KV interface {
	Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
	DeleteRange(context.Context, *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error)
	Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error)
}

// Leases grants leases.
type Leases interface {
	LeaseGrant(context.Context, *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)
}

// Watches are those of one call.
type Watches interface {
	Request(ctx context.Context, req *pb.WatchRequest) error
	// Next waits for the next response; its events are not changed.
	Next(ctx context.Context) (resp *pb.WatchResponse, fragment bool, err error)
	Close()
}

// Backend is what the services use. Errors of its parts are gRPC statuses.
type Backend struct {
	KV     KV
	Leases Leases
	Watch  func() Watches
	Header func() *pb.ResponseHeader // of now; a new one at each call
}

// The services' own failures, in etcd's words; etcd tells all of them as unknown.
var (
	errExpired     = status.Error(codes.Unknown, "mutex: session is expired")
	errNoLeader    = status.Error(codes.Unknown, "election: no leader")
	errNotLeader   = status.Error(codes.Unknown, "election: not leader")
	errLost        = status.Error(codes.Unknown, "election: session is expired")
	errNoLeaderKey = status.Error(codes.Unknown, `"leader" field must be provided`)
)

// errGone says that a key was deleted, errCompacted that a watch of it can not
// tell any more.
var (
	errGone      = errors.New("the key is deleted")
	errCompacted = errors.New("the revision is compacted")
)

// place is a key in a queue.
type place struct {
	prefix, key []byte
	rev         int64 // the key's create revision
}

func prefixOf(name []byte) []byte { return append(bytes.Clone(name), '/') }

// firstOf reads the holder: of the keys with the prefix the oldest.
func firstOf(prefix []byte) *pb.RangeRequest {
	return &pb.RangeRequest{Key: prefix, RangeEnd: endOf(prefix), Limit: 1,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND}
}

// endOf is the first key after all with the prefix, which ends in a slash.
func endOf(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

// lease gives the lease that a call brings, or a new one.
func (b Backend) lease(ctx context.Context, id int64) (int64, error) {
	if id != 0 {
		return id, nil
	}
	resp, err := b.Leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: sessionTTL})
	return resp.GetID(), err
}

// entered is what a call finds in its queue.
type entered struct {
	place
	header *pb.ResponseHeader
	mine   *mvccpb.KeyValue // the key that was there before; nil when it is new
	first  bool
}

// enter puts a key into the queue of name, unless it is there.
func (b Backend) enter(ctx context.Context, name []byte, lease int64, value []byte) (entered, error) {
	prefix := prefixOf(name)
	key := fmt.Appendf(bytes.Clone(prefix), "%x", lease)
	holder := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: firstOf(prefix)}}
	resp, err := b.KV.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, 0)},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}, holder},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}, holder},
	})
	if err != nil {
		return entered{}, err
	}
	e := entered{place: place{prefix: prefix, key: key, rev: resp.GetHeader().GetRevision()}, header: resp.GetHeader()}
	if !resp.GetSucceeded() {
		e.mine = resp.GetResponses()[0].GetResponseRange().GetKvs()[0]
		e.rev = e.mine.GetCreateRevision()
	}
	e.first = resp.GetResponses()[1].GetResponseRange().GetKvs()[0].GetCreateRevision() == e.rev
	return e, nil
}

// createdAt holds when the key was created at the revision; 0 = is not there.
func createdAt(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}
}

// wait returns when all before p in the queue are gone, with the header of the
// moment at which p was seen to be first. A p that is gone itself is errGone.
// Whatever else it returns, p is not in the queue any more.
func (b Backend) wait(ctx context.Context, p place) (*pb.ResponseHeader, error) {
	header, err := b.turn(ctx, p)
	if err != nil && !errors.Is(err, errGone) {
		b.leave(ctx, p)
	}
	return header, err
}

func (b Backend) turn(ctx context.Context, p place) (*pb.ResponseHeader, error) {
	before := firstOf(p.prefix)
	before.SortOrder, before.MaxCreateRevision = pb.RangeRequest_DESCEND, p.rev-1
	for {
		resp, err := b.read(ctx, before)
		if err != nil {
			return nil, err
		}
		if len(resp.GetKvs()) == 0 {
			break
		}
		err = b.untilDeleted(ctx, resp.GetKvs()[0].GetKey(), p.key, resp.GetHeader().GetRevision()+1)
		if err != nil && !errors.Is(err, errCompacted) {
			return nil, err
		}
	}
	resp, err := b.read(ctx, &pb.RangeRequest{Key: p.key})
	if err == nil && (len(resp.GetKvs()) == 0 || resp.GetKvs()[0].GetCreateRevision() != p.rev) {
		err = errGone
	}
	return resp.GetHeader(), err
}

// read is a linearizable read of a call that waits. It waits for a leader too:
// an election in between is no reason to lose the place.
func (b Backend) read(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	for {
		resp, err := b.KV.Range(ctx, req)
		if !leaderless(err) {
			return resp, err
		}
		again := time.NewTimer(rereadAfter)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, ended(ctx, err)
		}
	}
}

// leaderless reports whether a read failed for want of a leader that answers.
// The words tell it, as they do to etcd's clients; details may be added.
func leaderless(err error) bool {
	st, _ := status.FromError(err)
	for _, of := range []error{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCTimeoutDueToConnectionLost} {
		if st.Code() == status.Code(of) && st.Message() == status.Convert(of).Message() {
			return true
		}
	}
	return false
}

// leave takes a key out of its queue, also for a caller who has gone.
func (b Backend) leave(ctx context.Context, p place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	// A failure leaves the key to its lease.
	_, _ = b.remove(ctx, p.key, p.rev)
}

// remove deletes a key that was created at the revision, and gives the header
// in any case.
func (b Backend) remove(ctx context.Context, key []byte, rev int64) (*pb.ResponseHeader, error) {
	resp, err := b.KV.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, rev)},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
	})
	return resp.GetHeader(), err
}

// untilDeleted waits until key is deleted at the revision or after it; errGone
// when that happens to own first.
func (b Backend) untilDeleted(ctx context.Context, key, own []byte, from int64) error {
	deletes := []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
	return b.follow(ctx, func(ev *mvccpb.Event) (bool, error) {
		if bytes.Equal(ev.GetKv().GetKey(), own) {
			return true, errGone
		}
		return true, nil
	}, &pb.WatchCreateRequest{Key: key, StartRevision: from, Filters: deletes},
		&pb.WatchCreateRequest{Key: own, StartRevision: from, Filters: deletes})
}

// follow calls hear for each event of the watches until it says that it is
// done, or fails.
func (b Backend) follow(ctx context.Context, hear func(*mvccpb.Event) (done bool, err error), watches ...*pb.WatchCreateRequest) error {
	w := b.Watch()
	defer w.Close()
	for _, req := range watches {
		if err := w.Request(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}); err != nil {
			return ended(ctx, err)
		}
	}
	for {
		resp, _, err := w.Next(ctx)
		switch {
		case err != nil:
			return ended(ctx, err)
		case resp.GetCompactRevision() != 0:
			return errCompacted
		case resp.GetCanceled():
			return status.Error(codes.Unavailable, resp.GetCancelReason())
		}
		for _, ev := range resp.GetEvents() {
			if done, err := hear(ev); done || err != nil {
				return err
			}
		}
	}
}

// ended is why a call has ended that waited.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return err
}
