package member

import (
	"bytes"
	"slices"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// liveMember gives a record that is reserved or a member, and refuses others.
func liveMember(r Reader, op string, id uint64) (*entryv1.MemberRecord, error) {
	rec, err := Member(r, id)
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return nil, refuse(fault.Usage, op, ErrNotFound, "%s", ident.FormatID(id))
	case !live(rec):
		return nil, refuse(fault.Refused, op, ErrRemoved, "%s", ident.FormatID(id)).
			hint("a node that was removed joins again with an empty data directory and gets a new ID")
	}
	return rec, nil
}

// touchReservation is a sign of life; for a member it says nothing new.
func touchReservation(b Tables, _ uint64, m *entryv1.TouchReservation) (*entryv1.MemberRecord, error) {
	rec, err := liveMember(b, "touch reservation", m.GetId())
	if err != nil || !reserved(rec) {
		return rec, err
	}
	rec.Activity++
	return rec, putMember(b, rec)
}

// cancelReservation ends a reservation that nobody stands for any more. A
// cancelled ID is removed for ever; cancelling twice is the same as once.
func cancelReservation(b Tables, _ uint64, m *entryv1.CancelReservation) (*entryv1.MemberRecord, error) {
	const op = "cancel reservation"
	rec, err := Member(b, m.GetId())
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return nil, refuse(fault.Usage, op, ErrNotFound, "%s", ident.FormatID(m.GetId()))
	case !live(rec):
		return rec, nil
	case !reserved(rec):
		return nil, refuse(fault.Refused, op, ErrNotReserved, "%s is a member", ident.FormatID(m.GetId())).
			hint("remove it with: cfseed member remove %s", ident.FormatID(m.GetId()))
	case !m.GetForce() && m.GetIfActivity() != rec.GetActivity():
		return nil, refuse(fault.Refused, op, ErrChanged, "%s gave a sign of life", ident.FormatID(m.GetId()))
	}
	return rec, removeRecord(b, rec)
}

// removeRecord turns rec into the mark that its ID was used, and ends its leases.
func removeRecord(b Tables, rec *entryv1.MemberRecord) error {
	leases, err := SeedLeases(b)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.GetMemberId() != rec.GetId() {
			continue
		}
		if err := b.Delete(store.SeedLeases, idKey(l.GetId())); err != nil {
			return err
		}
	}
	rec.State = entryv1.MemberState_MEMBER_STATE_REMOVED
	rec.Learner = false
	rec.LeaseId = 0
	rec.PeerUrls, rec.ClientUrls = nil, nil
	return putMember(b, rec)
}

// bind ties an ID to one data directory, for ever.
func bind(b Tables, _ uint64, m *entryv1.BindMember) (*entryv1.MemberRecord, error) {
	const op = "bind member"
	if err := checkNonce(op, m.GetDirectoryNonce(), false); err != nil {
		return nil, err
	}
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	if len(rec.GetDirectoryNonce()) == 0 {
		if err := nonceFree(b, op, m); err != nil {
			return nil, err
		}
		rec.DirectoryNonce = m.GetDirectoryNonce()
	} else if !bytes.Equal(rec.GetDirectoryNonce(), m.GetDirectoryNonce()) {
		return nil, refuse(fault.Refused, op, ErrDirectory, "the directory of %s is lost, it needs a new ID", ident.FormatID(m.GetId())).
			hint("run: cfseed member remove %s, then join again with an empty data directory", ident.FormatID(m.GetId()))
	}
	if reserved(rec) {
		rec.Activity++
	}
	return rec, putMember(b, rec)
}

// nonceFree refuses a directory that already stands behind another live ID: a
// copy of a data directory must not become a second member.
func nonceFree(r Reader, op string, m *entryv1.BindMember) error {
	all, err := Members(r)
	if err != nil {
		return err
	}
	for _, rec := range all {
		if live(rec) && rec.GetId() != m.GetId() && bytes.Equal(rec.GetDirectoryNonce(), m.GetDirectoryNonce()) {
			return refuse(fault.Refused, op, ErrDirectory, "the directory belongs to member %s", ident.FormatID(rec.GetId())).
				hint("join with an empty data directory")
		}
	}
	return nil
}

// publish records what a started member says of itself. An empty field means
// unchanged.
func publish(b Tables, _ uint64, m *entryv1.PublishMember) (*entryv1.MemberRecord, error) {
	const op = "publish member"
	peers := canonicalURLs(m.GetPeerUrls())
	clients := m.GetClientUrls() // their order is the member's preference
	if err := checkFields(op, m.GetName(), peers); err != nil {
		return nil, err
	}
	if err := checkFields(op, "", clients); err != nil {
		return nil, err
	}
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	all, err := Members(b)
	if err != nil {
		return nil, err
	}
	if err := urlsFree(op, all, m.GetId(), peers); err != nil {
		return nil, err
	}
	for _, other := range all {
		if m.GetName() != "" && live(other) && other.GetId() != m.GetId() && other.GetName() == m.GetName() {
			return nil, refuse(fault.Refused, op, ErrNameExists, "%q is member %s", m.GetName(), ident.FormatID(other.GetId())).
				hint("start the node with another --name")
		}
	}
	if m.GetName() != "" {
		rec.Name = m.GetName()
	}
	if len(peers) > 0 {
		rec.PeerUrls = peers
	}
	if len(clients) > 0 {
		rec.ClientUrls = clients
	}
	rec.UrlsVersion++
	return rec, putMember(b, rec)
}

// update is the operator's change of peer URLs; the role stays what it is.
func update(b Tables, _ uint64, m *entryv1.UpdateMember) (*entryv1.MemberRecord, error) {
	const op = "update member"
	urls := canonicalURLs(m.GetPeerUrls())
	if len(urls) == 0 {
		return nil, refuse(fault.Usage, op, nil, "a peer URL is required")
	}
	if err := checkFields(op, "", urls); err != nil {
		return nil, err
	}
	rec, err := liveMember(b, op, m.GetId())
	if err != nil {
		return nil, err
	}
	all, err := Members(b)
	if err != nil {
		return nil, err
	}
	if err := urlsFree(op, all, m.GetId(), urls); err != nil {
		return nil, err
	}
	if !slices.Equal(rec.GetPeerUrls(), urls) {
		rec.PeerUrls = urls
		rec.UrlsVersion++
	}
	return rec, putMember(b, rec)
}
