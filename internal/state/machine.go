package state

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Machine applies log entries to a store. One goroutine calls Apply and Purge;
// every other method may be called from any goroutine.
type Machine struct {
	store  *store.Store
	batch  *store.Batch // Apply's
	broken error        // Apply's; the first fatal error
	rules  *auth.Rules  // Apply's; after the last entry
	purged []byte       // Apply's; row of the compact revision that PurgeLast goes on after

	mu    sync.RWMutex
	now   published
	ring  digestRing
	table memberTables
}

// published is what readers see of the last applied entry.
type published struct {
	applied   ident.Position
	conf      *entryv1.ConfState
	digest    [16]byte
	revision  int64
	compacted int64
	rules     *auth.Rules
}

// memberTables are copies of the tables that nodes look at all the time. They
// are replaced, never changed.
type memberTables struct {
	cluster *entryv1.ClusterRecord
	members []*entryv1.MemberRecord
	leases  []*entryv1.SeedLease
	alarms  []*etcdserverpb.AlarmMember
}

// Open gives the machine of a store. The store stays the caller's to close; a
// machine that is not running holds nothing open.
func Open(s *store.Store) (*Machine, error) {
	m := &Machine{store: s, batch: s.NewBatch(), ring: newDigestRing()}
	table, err := readTables(m.batch)
	if err == nil {
		m.rules, err = auth.Load(m.batch)
	}
	if err != nil {
		return nil, errors.Join(err, m.batch.Close())
	}
	if err := m.batch.Rollback(); err != nil {
		return nil, err
	}
	m.publish(&table, s.ConfState())
	return m, nil
}

func readTables(r member.Reader) (memberTables, error) {
	var (
		t    memberTables
		errs [4]error
	)
	t.cluster, errs[0] = member.Cluster(r)
	t.members, errs[1] = member.Members(r)
	t.leases, errs[2] = member.SeedLeases(r)
	t.alarms, errs[3] = alarm.All(r)
	return t, errors.Join(errs[:]...)
}

// publish shows readers the last commit; what is nil has not changed.
func (m *Machine) publish(table *memberTables, conf *entryv1.ConfState) {
	p := published{applied: m.store.Position(), conf: conf, digest: m.store.Digest(), rules: m.rules}
	p.revision, p.compacted = m.store.Revisions()
	m.mu.Lock()
	defer m.mu.Unlock()
	if conf == nil {
		p.conf = m.now.conf
	}
	m.now = p
	m.ring.put(p.applied.Index, p.digest)
	if table != nil {
		m.table = *table
	}
}

func (m *Machine) view() published {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.now
}

func (m *Machine) tables() memberTables {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.table
}

// Applied is the position of the last entry applied.
func (m *Machine) Applied() ident.Position { return m.view().applied }

// ConfState is the Raft configuration at Applied; a copy.
func (m *Machine) ConfState() *entryv1.ConfState { return clone(m.view().conf) }

// Digest is the digest of all tables at Applied.
func (m *Machine) Digest() [16]byte { return m.view().digest }

// DigestAndRevision are those of one applied entry.
func (m *Machine) DigestAndRevision() ([16]byte, int64) {
	now := m.view()
	return now.digest, now.revision
}

// DigestAt is the digest after the entry at index, if it is among the last
// 65536 applied since the machine was opened.
func (m *Machine) DigestAt(index uint64) ([16]byte, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.ring.get(index)
}

// Revision is the current key-value revision.
func (m *Machine) Revision() int64 { return m.view().revision }

// CompactRevision is the revision below which reads are refused; 0 when
// nothing was compacted.
func (m *Machine) CompactRevision() int64 { return max(m.view().compacted, 0) }

// Auth is who may do what at Applied.
func (m *Machine) Auth() *auth.Rules { return m.view().rules }

// Cluster is the cluster's record, nil until it is known; a copy.
func (m *Machine) Cluster() *entryv1.ClusterRecord { return clone(m.tables().cluster) }

// ClusterID is the cluster's ID, 0 until it is known. It copies nothing.
func (m *Machine) ClusterID() uint64 { return m.tables().cluster.GetClusterId() }

// Members are all member records, removed ones included, by ID; copies.
func (m *Machine) Members() []*entryv1.MemberRecord { return cloneAll(m.tables().members) }

// Member is one member record, nil when the ID was never used; a copy.
func (m *Machine) Member(id uint64) *entryv1.MemberRecord {
	if rec := m.member(id); rec != nil {
		return clone(rec)
	}
	return nil
}

// IsLearner reports whether the member with the ID is a learner. It is asked for
// every call of a client, and copies nothing.
func (m *Machine) IsLearner(id uint64) bool { return m.member(id).GetLearner() }

// member is one member record, not to be changed.
func (m *Machine) member(id uint64) *entryv1.MemberRecord {
	members := m.tables().members
	i, ok := slices.BinarySearchFunc(members, id, func(r *entryv1.MemberRecord, id uint64) int {
		return cmp.Compare(r.GetId(), id)
	})
	if !ok {
		return nil
	}
	return members[i]
}

// SeedLeases are the live seed leases, by ID; copies.
func (m *Machine) SeedLeases() []*entryv1.SeedLease { return cloneAll(m.tables().leases) }

// Alarms are the alarms that stand, by member ID; copies.
func (m *Machine) Alarms() []*etcdserverpb.AlarmMember { return cloneAll(m.tables().alarms) }

// Store is the store underneath.
func (m *Machine) Store() *store.Store { return m.store }

func clone[M proto.Message](m M) M { return proto.CloneOf(m) }

func cloneAll[M proto.Message](in []M) []M {
	out := make([]M, len(in))
	for i, m := range in {
		out[i] = proto.CloneOf(m)
	}
	return out
}

// Range reads keys as of one applied entry. Refusals are errors of package
// rpctypes.
func (m *Machine) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	v := m.store.View()
	resp, err := mvcc.Range(ctx, v, req)
	return resp, closing(err, v)
}

// TxnRead carries out a transaction that only reads, as of one applied entry.
func (m *Machine) TxnRead(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	v := m.store.View()
	resp, err := mvcc.TxnRead(ctx, v, req)
	return resp, closing(err, v)
}

// Leases are etcd's leases as of one applied entry, negative IDs after the
// others.
func (m *Machine) Leases() (all []lease.Lease, err error) {
	v := m.store.View()
	all, err = lease.All(v)
	return all, closing(err, v)
}

// LeaseKeys are the keys attached to a lease as of one applied entry, in order.
func (m *Machine) LeaseKeys(id int64) (keys [][]byte, err error) {
	v := m.store.View()
	keys, err = lease.Keys(v, id)
	return keys, closing(err, v)
}

// Changes gives the writes since revision from, as of one applied entry, in
// order; see mvcc.Changes.
func (m *Machine) Changes(ctx context.Context, from int64, prev bool, fn func(*mvccpb.Event) error) error {
	v := m.store.View()
	return closing(mvcc.Changes(ctx, v, from, prev, fn), v)
}

// History reads writes as of one applied entry; see mvcc.ReadHistory.
func (m *Machine) History(ctx context.Context, h mvcc.History) (mvcc.Bounds, error) {
	v := m.store.View()
	at, err := mvcc.ReadHistory(ctx, v, h)
	return at, closing(err, v)
}

// HashAt hashes the keys at a revision as of one applied entry; see mvcc.HashAt.
func (m *Machine) HashAt(ctx context.Context, rev int64) (mvcc.Hash, error) {
	v := m.store.View()
	h, err := mvcc.HashAt(ctx, v, rev)
	return h, closing(err, v)
}

// closing closes v and prefers err, unchanged: callers compare it.
func closing(err error, v *store.View) error {
	if cerr := v.Close(); err == nil {
		return cerr
	}
	return err
}

// Purge removes compacted history, at most limit writes of it, and reports
// whether more is left. It belongs to the goroutine that calls Apply.
func (m *Machine) Purge(limit int) (more bool, err error) {
	err = m.prune(func(v *store.View, p *store.Prune) (err error) {
		more, err = mvcc.Purge(v, p, limit)
		return err
	})
	return more, err
}

// PurgeLast removes what the compact revision itself has replaced, for at most
// limit of its writes, and reports whether more is left; see mvcc.PurgeLast. It
// belongs to the goroutine that calls Apply.
func (m *Machine) PurgeLast(limit int) (more bool, err error) {
	err = m.prune(func(v *store.View, p *store.Prune) (err error) {
		m.purged, err = mvcc.PurgeLast(v, p, m.purged, limit)
		return err
	})
	return m.purged != nil, err
}

// prune removes history as fn says.
func (m *Machine) prune(fn func(*store.View, *store.Prune) error) error {
	if m.broken != nil {
		return m.broken
	}
	v := m.store.View()
	p := m.store.NewPrune()
	err := closing(fn(v, p), v)
	if err == nil {
		err = p.Commit()
	}
	if err = errors.Join(err, p.Close()); err != nil {
		m.broken = fault.New(fault.CodeOf(err), "purge history", err)
	}
	return m.broken
}
