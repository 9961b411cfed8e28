package member

import (
	"fmt"
	"slices"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Differences compares the tables with the configuration of the same view and
// with each other. A healthy state has none; each line names the ID concerned.
// The properties:
//
//  1. voters and learners are ascending, free of duplicates and disjoint;
//  2. voters = records in state member without the learner role;
//  3. learners = records in state member with it;
//  4. a reservation or a removed record has no role;
//  5. a record's lease is live and bound to that record;
//  6. a live lease has hold <= ID and a bound member that is live.
func Differences(r Reader, conf *entryv1.ConfState) ([]string, error) {
	members, err := Members(r)
	if err != nil {
		return nil, err
	}
	leases, err := SeedLeases(r)
	if err != nil {
		return nil, err
	}
	d := &differences{members: make(map[uint64]*entryv1.MemberRecord), leases: make(map[uint64]*entryv1.SeedLease)}
	for _, l := range leases {
		d.leases[l.GetId()] = l
	}
	var voters, learners []uint64
	for _, rec := range members {
		d.members[rec.GetId()] = rec
		d.record(rec)
		switch {
		case rec.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER:
		case rec.GetLearner():
			learners = append(learners, rec.GetId())
		default:
			voters = append(voters, rec.GetId())
		}
	}
	for _, l := range leases {
		d.lease(l)
	}
	d.sets("voters", conf.GetVoters(), voters)
	d.sets("learners", conf.GetLearners(), learners)
	return d.found, nil
}

type differences struct {
	members map[uint64]*entryv1.MemberRecord
	leases  map[uint64]*entryv1.SeedLease
	found   []string
}

func (d *differences) add(format string, args ...any) {
	d.found = append(d.found, fmt.Sprintf(format, args...))
}

func (d *differences) record(rec *entryv1.MemberRecord) {
	id := rec.GetId()
	switch rec.GetState() {
	case entryv1.MemberState_MEMBER_STATE_MEMBER:
	case entryv1.MemberState_MEMBER_STATE_RESERVED, entryv1.MemberState_MEMBER_STATE_REMOVED:
		if rec.GetLearner() {
			d.add("member %016x is a learner but not in state member", id)
		}
	default:
		d.add("member %016x has the unknown state %d", id, rec.GetState())
	}
	if rec.GetLeaseId() == 0 {
		return
	}
	if l := d.leases[rec.GetLeaseId()]; l == nil || l.GetMemberId() != id {
		d.add("member %016x names lease %d, which is not bound to it", id, rec.GetLeaseId())
	}
}

func (d *differences) lease(l *entryv1.SeedLease) {
	if l.GetHold() > l.GetId() {
		d.add("lease %d has hold %d, after the entry that opened it", l.GetId(), l.GetHold())
	}
	if l.GetMemberId() == 0 {
		return
	}
	if rec := d.members[l.GetMemberId()]; rec == nil || !live(rec) {
		d.add("lease %d is bound to member %016x, which is not live", l.GetId(), l.GetMemberId())
	}
}

func (d *differences) sets(name string, conf, table []uint64) {
	for i := 1; i < len(conf); i++ {
		if conf[i-1] >= conf[i] {
			d.add("%s of the configuration are not ascending at %016x", name, conf[i])
		}
	}
	for _, id := range conf {
		if !slices.Contains(table, id) {
			d.add("configuration has %016x among its %s, the member table has not", id, name)
		}
	}
	for _, id := range table {
		if !slices.Contains(conf, id) {
			d.add("member table has %016x among its %s, the configuration has not", id, name)
		}
	}
}
