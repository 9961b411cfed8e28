package state

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// EntryType is the kind of log entry as Raft sees it.
type EntryType int

// Entry types.
const (
	Normal EntryType = iota
	ConfChangeEntry
)

// Entry is one committed log entry. Data is an envelope, empty in the entry
// with which a leader begins its term; of a ConfChangeEntry it is the context.
type Entry struct {
	Index, Term uint64
	Type        EntryType
	Data        []byte
	Conf        *ConfChange // of a ConfChangeEntry
}

// ConfChangeType is what a configuration change does to its node.
type ConfChangeType int

// Configuration changes. Everything but the simple ones (joint changes, in
// place updates) is Unsupported and refused.
const (
	Unsupported ConfChangeType = iota
	AddVoter
	AddLearner
	RemoveNode
)

// ConfChange is a configuration change.
type ConfChange struct {
	Type   ConfChangeType
	NodeID uint64
}

// Result is the outcome of an entry that was not fatal.
type Result struct {
	Index, Term uint64
	RequestID   uint64        // 0: nobody waits
	Kind        envelope.Kind // 0: empty entry
	// Response is etcd's response (its header has the revision only) or the
	// record of package entryv1 that the entry made or changed. nil when
	// refused.
	Response proto.Message
	// Leases are the leases that the entry granted, revoked or checkpointed.
	Leases []lease.Change
	// Tokens is what the entry did to the tokens of users; nil: nothing.
	Tokens *auth.Change
	// Err says why the entry was refused: a fault.Error or an error of package
	// rpctypes.
	Err error
	// ConfChanged says that the Raft library must apply the change, and
	// ConfState what the configuration is then.
	ConfChanged bool
	ConfState   *entryv1.ConfState
}

const opApply = "apply entry"

// Apply carries out the entry that follows the last one applied. An error is
// fatal; see the package comment.
func (m *Machine) Apply(e Entry) (Result, error) {
	if m.broken != nil {
		return Result{}, m.broken
	}
	res, err := m.apply(e)
	if err != nil {
		m.broken = err
		return Result{}, err
	}
	return res, nil
}

func (m *Machine) apply(e Entry) (Result, error) {
	last := m.Applied()
	if e.Index != last.Index+1 || e.Term < last.Term {
		return Result{}, fault.Newf(fault.Corrupt, opApply, "entry %d/%d does not follow %s", e.Term, e.Index, last)
	}
	res := Result{Index: e.Index, Term: e.Term}
	if err := m.carryOut(e, &res); err != nil {
		return Result{}, errors.Join(err, m.batch.Rollback())
	}
	if res.Err != nil {
		res.Response = nil
		if err := m.batch.Rollback(); err != nil {
			return Result{}, err
		}
	}
	table, rules, err := m.copies(res)
	if err != nil {
		return Result{}, errors.Join(err, m.batch.Rollback())
	}
	if err := m.batch.Commit(ident.Position{Term: e.Term, Index: e.Index}); err != nil {
		return Result{}, err
	}
	m.rules = rules
	m.publish(table, res.ConfState)
	return res, nil
}

// copies reads anew from the batch what is kept in memory of the tables that the
// entry has changed; the member tables are nil when it has not.
func (m *Machine) copies(res Result) (*memberTables, *auth.Rules, error) {
	switch {
	case res.Err != nil:
	case writesCopied(res.Kind):
		t, err := readTables(m.batch)
		return &t, m.rules, err
	case writesAuth(res.Kind):
		rules, err := auth.Load(m.batch)
		return nil, rules, err
	}
	return nil, m.rules, nil
}

// writesCopied reports whether entries of the kind change tables that the
// machine has copies of.
func writesCopied(k envelope.Kind) bool { return k >= envelope.ClusterInit || k == envelope.Alarm }

// carryOut writes the entry's effects to the batch. A refusal goes to res.Err;
// the error is fatal.
func (m *Machine) carryOut(e Entry, res *Result) error {
	if len(e.Data) == 0 {
		if e.Type == ConfChangeEntry {
			res.Err = fault.Newf(fault.Refused, opApply, "configuration change without a context")
		}
		return nil
	}
	env, err := envelope.Decode(e.Data)
	if err != nil {
		return fault.Newf(fault.Corrupt, opApply, "entry %d: %w", e.Index, err).
			WithHint("a newer version wrote it, or the log is damaged")
	}
	res.RequestID, res.Kind = env.RequestID, env.Kind
	if e.Type == ConfChangeEntry {
		err = m.changeConf(e, env, res)
	} else {
		res.Response, err = m.dispatch(e.Index, env, res)
	}
	switch {
	case m.batch.Err() != nil:
		return m.batch.Err()
	case err != nil && refused(err):
		res.Err = err
		return nil
	}
	return err
}

// refused tells a rule's verdict, alike on all members, from a failure of
// this one.
func refused(err error) bool {
	if member.IsRefusal(err) || errors.Is(err, rpctypes.ErrGRPCPermissionNotGiven) { // which rpctypes forgets to list
		return true
	}
	_, etcd := rpctypes.Error(err).(rpctypes.EtcdError)
	return etcd
}

func (m *Machine) dispatch(index uint64, env envelope.Envelope, res *Result) (proto.Message, error) {
	b := m.batch
	if err := m.forbids(env.Kind); err != nil {
		return nil, err
	}
	switch env.Kind {
	case envelope.Put:
		return run(b, index, env, new(etcdserverpb.PutRequest), permitted(m, env, (*auth.Rules).CheckPut, mvcc.Put))
	case envelope.DeleteRange:
		return run(b, index, env, new(etcdserverpb.DeleteRangeRequest), permitted(m, env, (*auth.Rules).CheckDeleteRange, mvcc.DeleteRange))
	case envelope.Txn:
		return run(b, index, env, new(etcdserverpb.TxnRequest), m.capped(permitted(m, env, (*auth.Rules).CheckTxn, mvcc.Txn)))
	case envelope.Compact:
		return run(b, index, env, new(etcdserverpb.CompactionRequest), mvcc.Compact)
	case envelope.LeaseGrant:
		return runLease(b, index, env, new(etcdserverpb.LeaseGrantRequest), res, lease.Grant)
	case envelope.LeaseRevoke:
		return runLease(b, index, env, new(etcdserverpb.LeaseRevokeRequest), res, m.revokeOf(env.Client))
	case envelope.LeaseCheckpoint:
		return runLease(b, index, env, new(etcdserverpb.LeaseCheckpointRequest), res, lease.Checkpoint)
	case envelope.Alarm:
		return run(b, index, env, new(etcdserverpb.AlarmRequest), func(_ mvcc.Batch, req *etcdserverpb.AlarmRequest) (*etcdserverpb.AlarmResponse, error) {
			return alarm.Apply(b, req)
		})
	}
	if isAuth(env.Kind) {
		return m.manage(index, env, res)
	}
	return member.Apply(b, index, env.Kind, env.Body)
}

// run decodes a request of package mvcc and carries it out.
func run[Req, Resp proto.Message](b *store.Batch, index uint64, env envelope.Envelope, req Req,
	do func(mvcc.Batch, Req) (Resp, error),
) (proto.Message, error) {
	if err := proto.Unmarshal(env.Body, req); err != nil {
		return nil, fault.Newf(fault.Corrupt, opApply, "entry %d: body of %s: %w", index, env.Kind, err)
	}
	resp, err := do(b, req)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// runLease is run for a request of package lease.
func runLease[Req, Resp proto.Message](b *store.Batch, index uint64, env envelope.Envelope, req Req, res *Result,
	do func(lease.Batch, Req) (Resp, []lease.Change, error),
) (proto.Message, error) {
	var changes []lease.Change
	resp, err := run(b, index, env, req, func(_ mvcc.Batch, req Req) (resp Resp, err error) {
		resp, changes, err = do(b, req)
		return resp, err
	})
	if err == nil {
		res.Leases = changes
	}
	return resp, err
}

// changeConf carries out a configuration change: the member tables' rules
// decide, at apply, whether Raft gets to see it.
func (m *Machine) changeConf(e Entry, env envelope.Envelope, res *Result) error {
	if e.Conf == nil || e.Conf.Type == Unsupported {
		res.Err = fault.Newf(fault.Refused, opApply, "only simple configuration changes are carried out")
		return nil
	}
	op := member.ConfOp{NodeID: e.Conf.NodeID}
	switch e.Conf.Type {
	case AddVoter:
		op.Type = member.AddVoter
	case AddLearner:
		op.Type = member.AddLearner
	case RemoveNode:
		op.Type = member.Remove
	default:
		return fmt.Errorf("configuration change of type %d", e.Conf.Type)
	}
	next, rec, err := member.ApplyConf(m.batch, m.batch.ConfState(), e.Index, env.Kind, env.Body, op)
	if err != nil {
		return err
	}
	m.batch.SetConfState(next)
	res.ConfChanged, res.ConfState, res.Response = true, m.batch.ConfState(), rec
	return nil
}
