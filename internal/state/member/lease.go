package member

import (
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// MaxTargetBytes bounds the text by which people know a lease's target.
const MaxTargetBytes = 1024

// openLease opens a lease whose hold is the index of this very entry, or the
// hold of a live lease whose checkpoint is shared.
func openLease(b Tables, index uint64, m *entryv1.OpenSeedLease) (*entryv1.SeedLease, error) {
	const op = "open seed lease"
	switch {
	case m.GetTtlMs() == 0 || m.GetCapBytes() == 0:
		return nil, refuse(fault.Usage, op, nil, "a time to live and a cap of log bytes are required")
	case len(m.GetTarget()) > MaxTargetBytes:
		return nil, refuse(fault.Usage, op, nil, "target of %d bytes, at most %d", len(m.GetTarget()), MaxTargetBytes)
	}
	if m.GetMemberId() != 0 {
		if _, err := liveMember(b, op, m.GetMemberId()); err != nil {
			return nil, err
		}
	}
	hold := index
	if m.GetCloneOf() != 0 {
		shared, err := liveLease(b, op, m.GetCloneOf())
		if err != nil {
			return nil, err
		}
		hold = shared.GetHold()
	}
	rec := &entryv1.SeedLease{
		Id:       index,
		Hold:     hold,
		TtlMs:    m.GetTtlMs(),
		CapBytes: m.GetCapBytes(),
		MemberId: m.GetMemberId(),
		SourceId: m.GetSourceId(),
		Target:   m.GetTarget(),
	}
	return rec, putLease(b, rec)
}

// renewLease starts the lease's time again; its hold stays.
func renewLease(b Tables, _ uint64, m *entryv1.RenewSeedLease) (*entryv1.SeedLease, error) {
	rec, err := liveLease(b, "renew seed lease", m.GetId())
	if err != nil {
		return nil, err
	}
	rec.Renewal++
	if m.GetTtlMs() != 0 {
		rec.TtlMs = m.GetTtlMs()
	}
	if m.GetCapBytes() != 0 {
		rec.CapBytes = m.GetCapBytes()
	}
	return rec, putLease(b, rec)
}

// expireLease ends a lease that was not renewed since the leader decided so.
func expireLease(b Tables, _ uint64, m *entryv1.ExpireSeedLease) (*entryv1.SeedLease, error) {
	const op = "expire seed lease"
	rec, err := SeedLease(b, m.GetId())
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return &entryv1.SeedLease{Id: m.GetId()}, nil
	case rec.GetRenewal() != m.GetIfRenewal():
		return nil, refuse(fault.Refused, op, ErrChanged, "lease %d was renewed", m.GetId())
	}
	return rec, deleteLease(b, rec)
}

// closeLease ends a lease; closing one that ended is the same as once. The
// record of an unknown lease carries nothing but its ID.
func closeLease(b Tables, _ uint64, m *entryv1.CloseSeedLease) (*entryv1.SeedLease, error) {
	rec, err := SeedLease(b, m.GetId())
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return &entryv1.SeedLease{Id: m.GetId()}, nil
	}
	return rec, deleteLease(b, rec)
}

// deleteLease removes the lease and the mention of it in its member's record.
func deleteLease(b Tables, rec *entryv1.SeedLease) error {
	if rec.GetMemberId() != 0 {
		owner, err := Member(b, rec.GetMemberId())
		if err != nil {
			return err
		}
		if owner != nil && owner.GetLeaseId() == rec.GetId() {
			owner.LeaseId = 0
			if err := putMember(b, owner); err != nil {
				return err
			}
		}
	}
	return b.Delete(store.SeedLeases, idKey(rec.GetId()))
}

func liveLease(r Reader, op string, id uint64) (*entryv1.SeedLease, error) {
	rec, err := SeedLease(r, id)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, refuse(fault.LeaseLost, op, ErrLeaseGone, "lease %d", id).
			hint("the log after the seed may be gone: fetch it again")
	}
	return rec, nil
}
