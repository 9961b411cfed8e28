package node

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/clusterapi"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/node/watch"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// EtcdVersion is the release of etcd whose API is served.
const EtcdVersion = "3.7.3"

// etcdBackend is the running member as etcd's services see it
// (etcdapi.Backend). What only the leader can do goes through the same
// forwarding as the cluster's own services.
type etcdBackend struct {
	b       *backend
	cluster *clusterapi.Service
	leader  *leaderWatch
	leases  *leases
	ids     *leaseIDs
	watches *watch.Hub
	*maintenance
}

func (e etcdBackend) Propose(ctx context.Context, client *envelope.Client, kind envelope.Kind, body proto.Message) (state.Result, error) {
	defer e.b.seeds.pace.Begin()()
	res, err := e.b.core.ProposeFor(ctx, client, kind, body)
	if err != nil && res.Index != 0 { // refused when it was applied
		res.Err, err = err, nil
	}
	return res, err
}

func (e etcdBackend) ReadIndex(ctx context.Context) error { return e.b.core.ReadIndex(ctx) }

// WaitPurged implements etcdapi.Purger: physical compaction.
func (e etcdBackend) WaitPurged(ctx context.Context, revision int64) error {
	return e.b.core.waitPurged(ctx, revision)
}

func (e etcdBackend) Range(ctx context.Context, req *pb.RangeRequest) (res *pb.RangeResponse, err error) {
	err = e.b.state.read(func(m *state.Machine) (err error) { res, err = m.Range(ctx, req); return err })
	return res, err
}

func (e etcdBackend) TxnRead(ctx context.Context, req *pb.TxnRequest) (res *pb.TxnResponse, err error) {
	err = e.b.state.read(func(m *state.Machine) (err error) { res, err = m.TxnRead(ctx, req); return err })
	return res, err
}

func (e etcdBackend) Watch() etcdapi.Watches { return e.watches.Open() }

func (e etcdBackend) Header() *pb.ResponseHeader {
	m := e.b.state.machine()
	return &pb.ResponseHeader{ClusterId: m.ClusterID(), MemberId: e.b.self, Revision: m.Revision(),
		RaftTerm: e.leader.term()}
}

func (e etcdBackend) Role() (leader uint64, learner bool) {
	return e.leader.current(), e.b.state.machine().IsLearner(e.b.self)
}

func (e etcdBackend) Status(ctx context.Context) (etcdapi.Status, error) {
	applied := e.b.state.machine().Applied().Index // before, so that it is never past what is committed
	var st replica.Status
	if err := e.b.core.status(ctx, &st); err != nil {
		return etcdapi.Status{}, err
	}
	space := e.b.space()
	_, learner := e.Role()
	return etcdapi.Status{Version: EtcdVersion, DBSize: space.Disk, DBSizeInUse: space.InUse, DBSizeQuota: max(e.quota.limit, 0), Leader: st.Leader, RaftIndex: st.Commit,
		RaftTerm: st.Term, AppliedIndex: applied, IsLearner: learner}, nil
}

func (e etcdBackend) NewLeaseID() int64 { return e.ids.next() }

func (e etcdBackend) RenewLease(ctx context.Context, id int64) (ttl int64, err error) {
	return e.leases.keepAlive(ctx, id)
}

func (e etcdBackend) LeaseTimeToLive(ctx context.Context, id int64, keys bool) (etcdapi.Lease, error) {
	res, err := e.leases.timeToLive(ctx, id, keys)
	return etcdapi.Lease{TTL: res.GetTtl(), GrantedTTL: res.GetGrantedTtl(), Keys: res.GetKeys()}, err
}

func (e etcdBackend) Auth() *auth.Rules { return e.b.state.machine().Auth() }

func (e etcdBackend) LeaseKeys(_ context.Context, id int64) (keys [][]byte, err error) {
	err = e.b.state.read(func(m *state.Machine) (err error) { keys, err = m.LeaseKeys(id); return err })
	return keys, err
}

func (e etcdBackend) Leases(context.Context) (ids []int64, err error) {
	err = e.b.state.read(func(m *state.Machine) error {
		all, err := m.Leases()
		for _, l := range all {
			ids = append(ids, l.ID)
		}
		return err
	})
	return ids, err
}

func (e etcdBackend) Members() []*entryv1.MemberRecord { return e.b.state.machine().Members() }

// AddMember reserves an ID (S6): the newcomer seeds itself, is added as a
// learner and promoted, so that a quorum never counts a node without a log.
func (e etcdBackend) AddMember(ctx context.Context, req *pb.MemberAddRequest) (*entryv1.MemberRecord, []*entryv1.MemberRecord, error) {
	rec, err := e.cluster.ReserveMember(ctx, &entryv1.ReserveMember{PeerUrls: req.GetPeerURLs(), StayLearner: req.GetIsLearner()})
	if err != nil {
		return nil, nil, err
	}
	return rec, e.Members(), nil
}

func (e etcdBackend) RemoveMember(ctx context.Context, id uint64) error {
	return e.cluster.RemoveMember(ctx, id)
}

func (e etcdBackend) PromoteMember(ctx context.Context, id uint64) error {
	return e.cluster.PromoteMember(ctx, id)
}

func (e etcdBackend) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	return e.cluster.UpdateMember(ctx, id, peerURLs)
}
