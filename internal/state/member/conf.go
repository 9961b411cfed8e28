package member

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// ConfOpType is what a simple Raft configuration change does to one node.
type ConfOpType int

// The three simple changes. A voter comes from a learner, or from bootstrap.
const (
	AddVoter ConfOpType = iota + 1
	AddLearner
	Remove
)

// String names the change.
func (t ConfOpType) String() string {
	switch t {
	case AddVoter:
		return "add voter"
	case AddLearner:
		return "add learner"
	case Remove:
		return "remove"
	}
	return fmt.Sprintf("change(%d)", int(t))
}

// ConfOp is the configuration change the Raft library is about to see.
type ConfOp struct {
	Type   ConfOpType
	NodeID uint64
}

// ApplyConf carries out one configuration entry of kinds 128 to 131 and gives
// the next configuration (a new message) and the member's record. conf is not
// changed. On a refusal (IsRefusal) nothing was written: the change is skipped
// on every member and the configuration stays. Any other error is fatal.
func ApplyConf(b Tables, conf *entryv1.ConfState, index uint64, kind envelope.Kind, body []byte, op ConfOp) (next *entryv1.ConfState, rec *entryv1.MemberRecord, err error) {
	switch kind {
	case envelope.BootstrapVoter:
		return runConf(b, conf, index, body, op, AddVoter, new(entryv1.BootstrapVoter), bootstrapVoter)
	case envelope.AddLearner:
		return runConf(b, conf, index, body, op, AddLearner, new(entryv1.AddLearner), addLearner)
	case envelope.PromoteMember:
		return runConf(b, conf, index, body, op, AddVoter, new(entryv1.PromoteMember), promote)
	case envelope.RemoveMember:
		return runConf(b, conf, index, body, op, Remove, new(entryv1.RemoveMember), remove)
	}
	return nil, nil, fault.Newf(fault.Corrupt, "apply entry", "entry %d: %s is no configuration change", index, kind)
}

// confBody is a context of a configuration entry.
type confBody interface {
	proto.Message
	GetId() uint64
}

func runConf[M confBody](b Tables, conf *entryv1.ConfState, index uint64, body []byte, op ConfOp, want ConfOpType, m M,
	rule func(Tables, *entryv1.ConfState, uint64, M) (*entryv1.MemberRecord, error),
) (*entryv1.ConfState, *entryv1.MemberRecord, error) {
	if err := decode(index, body, m); err != nil {
		return nil, nil, err
	}
	// What Raft does and what the tables say must be one change.
	if op.Type != want || op.NodeID != m.GetId() {
		return nil, nil, refuse(fault.Refused, "change membership", nil, "%s of %s does not go with its context, which is to %s %s",
			op.Type, ident.FormatID(op.NodeID), want, ident.FormatID(m.GetId()))
	}
	next := &entryv1.ConfState{Voters: slices.Clone(conf.GetVoters()), Learners: slices.Clone(conf.GetLearners())}
	slices.Sort(next.Voters)
	slices.Sort(next.Learners)
	rec, err := rule(b, next, index, m)
	if err != nil {
		return nil, nil, err
	}
	return next, rec, nil
}

// bootstrapVoter makes one of the voters that a cluster is born with.
func bootstrapVoter(b Tables, next *entryv1.ConfState, index uint64, m *entryv1.BootstrapVoter) (*entryv1.MemberRecord, error) {
	const op = "bootstrap voter"
	urls := canonicalURLs(m.GetPeerUrls())
	if err := checkFields(op, m.GetName(), urls); err != nil {
		return nil, err
	}
	cluster, err := Cluster(b)
	if err != nil {
		return nil, err
	}
	if cluster != nil {
		return nil, refuse(fault.Refused, op, ErrClusterExists, "").hint("a new voter joins as a learner first")
	}
	all, err := Members(b)
	if err != nil {
		return nil, err
	}
	for _, rec := range all {
		if rec.GetId() == m.GetId() {
			return nil, refuse(fault.Refused, op, nil, "ID %s is already used", ident.FormatID(m.GetId()))
		}
	}
	if !usable(m.GetId()) || inConf(next, m.GetId()) {
		return nil, refuse(fault.Refused, op, nil, "ID %s can not be used", ident.FormatID(m.GetId()))
	}
	if err := urlsFree(op, all, m.GetId(), urls); err != nil {
		return nil, err
	}
	rec := &entryv1.MemberRecord{
		Id:          m.GetId(),
		State:       entryv1.MemberState_MEMBER_STATE_MEMBER,
		Name:        m.GetName(),
		PeerUrls:    urls,
		AddedAt:     index,
		UrlsVersion: 1,
		VoterIntent: true,
	}
	next.Voters = insert(next.Voters, m.GetId())
	return rec, putMember(b, rec)
}

// addLearner turns a reservation into a learner. Everything the leader checked
// before it proposed may have changed since, so it is checked again here.
func addLearner(b Tables, next *entryv1.ConfState, index uint64, m *entryv1.AddLearner) (*entryv1.MemberRecord, error) {
	const op = "add learner"
	if at := m.GetPosition().GetIndex(); at >= index {
		return nil, refuse(fault.Refused, op, nil, "the seed ends at index %d, this is entry %d", at, index).
			hint("the seed is of another cluster")
	}
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	if !reserved(rec) || inConf(next, m.GetId()) {
		return nil, refuse(fault.Refused, op, ErrNotReserved, "%s is a member already", ident.FormatID(m.GetId()))
	}
	if m.GetLeaseId() != 0 {
		if err := rebind(b, op, m); err != nil {
			return nil, err
		}
	}
	rec.State = entryv1.MemberState_MEMBER_STATE_MEMBER
	rec.Learner = true
	rec.AddedAt = index
	rec.LeaseId = m.GetLeaseId()
	next.Learners = insert(next.Learners, m.GetId())
	return rec, putMember(b, rec)
}

// rebind ties the seed's lease to the learner, so that its hold stays until the
// learner has caught up. The seed must be covered by it: entries after hold are
// kept, so a seed whose last entry is before hold may have lost its tail.
func rebind(b Tables, op string, m *entryv1.AddLearner) error {
	lease, err := liveLease(b, op, m.GetLeaseId())
	if err != nil {
		return err
	}
	if lease.GetMemberId() != 0 && lease.GetMemberId() != m.GetId() {
		return refuse(fault.Refused, op, nil, "lease %d belongs to member %s", m.GetLeaseId(), ident.FormatID(lease.GetMemberId()))
	}
	if m.GetPosition().GetIndex() < lease.GetHold() {
		return refuse(fault.Reseed, op, nil, "the seed ends at index %d, before the hold %d of lease %d",
			m.GetPosition().GetIndex(), lease.GetHold(), m.GetLeaseId()).
			hint("the seed is older than its lease: fetch it again")
	}
	lease.MemberId = m.GetId()
	return putLease(b, lease)
}

// promote makes a learner a voter; asked for explicitly it also ends stay_learner.
func promote(b Tables, next *entryv1.ConfState, _ uint64, m *entryv1.PromoteMember) (*entryv1.MemberRecord, error) {
	const op = "promote member"
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	if !rec.GetLearner() || !slices.Contains(next.Learners, m.GetId()) {
		return nil, refuse(fault.Refused, op, ErrNotLearner, "%s", ident.FormatID(m.GetId()))
	}
	rec.Learner = false
	rec.StayLearner = false
	rec.VoterIntent = true
	next.Learners = without(next.Learners, m.GetId())
	next.Voters = insert(next.Voters, m.GetId())
	return rec, putMember(b, rec)
}

// remove ends a voter, a learner or a reservation, for ever.
func remove(b Tables, next *entryv1.ConfState, _ uint64, m *entryv1.RemoveMember) (*entryv1.MemberRecord, error) {
	const op = "remove member"
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	if len(next.Voters) == 1 && next.Voters[0] == m.GetId() {
		return nil, refuse(fault.Refused, op, ErrLastVoter, "%s", ident.FormatID(m.GetId()))
	}
	next.Voters = without(next.Voters, m.GetId())
	next.Learners = without(next.Learners, m.GetId())
	return rec, removeRecord(b, rec)
}

func inConf(conf *entryv1.ConfState, id uint64) bool {
	return slices.Contains(conf.GetVoters(), id) || slices.Contains(conf.GetLearners(), id)
}

// insert keeps ids ascending and free of duplicates.
func insert(ids []uint64, id uint64) []uint64 {
	at, found := slices.BinarySearch(ids, id)
	if found {
		return ids
	}
	return slices.Insert(ids, at, id)
}

func without(ids []uint64, id uint64) []uint64 {
	return slices.DeleteFunc(ids, func(x uint64) bool { return x == id })
}
