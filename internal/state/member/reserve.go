package member

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Bounds of what a request may put into a record.
const (
	MaxNameBytes = 256
	MaxURLs      = 16
	MaxURLBytes  = 1024
)

// reserve gives out a member ID, or finds the record that an earlier try of the
// same newcomer made.
func reserve(b Tables, index uint64, m *entryv1.ReserveMember) (*entryv1.MemberRecord, error) {
	const op = "reserve member"
	urls := canonicalURLs(m.GetPeerUrls())
	if len(urls) == 0 && len(m.GetDirectoryNonce()) == 0 {
		return nil, refuse(fault.Usage, op, nil, "a peer URL or a data directory is required")
	}
	if err := checkFields(op, m.GetName(), urls); err != nil {
		return nil, err
	}
	if err := checkNonce(op, m.GetDirectoryNonce(), true); err != nil {
		return nil, err
	}
	cluster, err := Cluster(b)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return nil, refuse(fault.Refused, op, ErrNoCluster, "").hint("wait until the first leader has written it")
	}
	all, err := Members(b)
	if err != nil {
		return nil, err
	}
	if rec := earlierTry(all, m, urls); rec != nil {
		return retryReservation(b, all, rec, m, urls)
	}
	if err := urlsFree(op, all, 0, urls); err != nil {
		return nil, err
	}
	rec := &entryv1.MemberRecord{
		Id:          newID(cluster.GetGenesisNonce(), index, all),
		State:       entryv1.MemberState_MEMBER_STATE_RESERVED,
		Name:        m.GetName(),
		PeerUrls:    urls,
		StayLearner: m.GetStayLearner(),
		VoterIntent: !m.GetStayLearner(),
		ReservedAt:  index,
		Activity:    1,
		UrlsVersion: 1,
	}
	return rec, putMember(b, rec)
}

// earlierTry finds the live record a request may mean: the one bound to that
// directory, the one of that name, or a nameless one (etcd's MemberAdd gives no
// name) at the same peer URLs. A nameless request means a reservation at the
// same peer URLs, whatever its name.
func earlierTry(all []*entryv1.MemberRecord, m *entryv1.ReserveMember, urls []string) *entryv1.MemberRecord {
	name, nonce := m.GetName(), m.GetDirectoryNonce()
	rules := []func(rec *entryv1.MemberRecord) bool{
		func(rec *entryv1.MemberRecord) bool {
			return len(nonce) > 0 && bytes.Equal(rec.GetDirectoryNonce(), nonce)
		},
		func(rec *entryv1.MemberRecord) bool { return name != "" && rec.GetName() == name },
		func(rec *entryv1.MemberRecord) bool {
			nameless := name != "" && rec.GetName() == "" || name == "" && reserved(rec)
			return nameless && len(urls) > 0 && slices.Equal(rec.GetPeerUrls(), urls)
		},
	}
	for _, rule := range rules {
		for _, rec := range all {
			if live(rec) && rule(rec) {
				return rec
			}
		}
	}
	return nil
}

// retryReservation decides whether the request continues rec. It does when the
// data directory is the one bound, when none is bound yet, or when the request
// names no directory and the address is the same.
func retryReservation(b Tables, all []*entryv1.MemberRecord, rec *entryv1.MemberRecord, m *entryv1.ReserveMember, urls []string) (*entryv1.MemberRecord, error) {
	const op = "reserve member"
	nonce := m.GetDirectoryNonce()
	sameURLs := slices.Equal(rec.GetPeerUrls(), urls)
	switch {
	case len(nonce) > 0 && bytes.Equal(nonce, rec.GetDirectoryNonce()):
	case reserved(rec) && len(rec.GetDirectoryNonce()) == 0:
	case len(nonce) == 0 && sameURLs:
	case m.GetName() != "" && rec.GetName() == m.GetName():
		return nil, refuse(fault.Refused, op, ErrNameExists, "%q is member %s", m.GetName(), ident.FormatID(rec.GetId())).
			hint("choose another name, or first run: cfseed member remove %s", ident.FormatID(rec.GetId()))
	default:
		return nil, urlTaken(op, urls[0], rec)
	}
	if !reserved(rec) {
		return rec, nil
	}
	if rec.GetName() == "" {
		rec.Name = m.GetName()
	}
	// A node that listens on any free port comes back with a new URL; nobody
	// talks to a reservation yet, so the newest wins.
	if !sameURLs && len(nonce) > 0 && len(urls) > 0 {
		if err := urlsFree(op, all, rec.GetId(), urls); err != nil {
			return nil, err
		}
		rec.PeerUrls = urls
		rec.UrlsVersion++
	}
	rec.Activity++
	return rec, putMember(b, rec)
}

// newID derives an ID that no record has, removed ones included.
func newID(genesis []byte, index uint64, all []*entryv1.MemberRecord) uint64 {
	seed := make([]byte, 0, 32)
	seed = append(seed, genesis...)
	seed = binary.LittleEndian.AppendUint64(seed, index)
	for n := uint64(0); ; n++ {
		id := xxh3.Hash(binary.LittleEndian.AppendUint64(seed, n))
		if !usable(id) {
			continue
		}
		_, used := slices.BinarySearchFunc(all, id, func(rec *entryv1.MemberRecord, id uint64) int {
			return cmp.Compare(rec.GetId(), id)
		})
		if !used {
			return id
		}
	}
}

// usable reports whether id can name a member; Raft keeps three for itself.
func usable(id uint64) bool { return id != 0 && id < math.MaxUint64-1 }

func reserved(rec *entryv1.MemberRecord) bool {
	return rec.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED
}

func live(rec *entryv1.MemberRecord) bool {
	return reserved(rec) || rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER
}

// canonicalURLs sorts and drops duplicates and empty strings.
func canonicalURLs(urls []string) []string {
	out := slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return u == "" })
	slices.Sort(out)
	return slices.Compact(out)
}

// urlsFree refuses URLs that another live record than self has.
func urlsFree(op string, all []*entryv1.MemberRecord, self uint64, urls []string) error {
	for _, rec := range all {
		if rec.GetId() == self || !live(rec) {
			continue
		}
		for _, u := range urls {
			if slices.Contains(rec.GetPeerUrls(), u) {
				return urlTaken(op, u, rec)
			}
		}
	}
	return nil
}

func urlTaken(op, url string, rec *entryv1.MemberRecord) error {
	return refuse(fault.Refused, op, ErrPeerURLExists, "%s is at member %s", url, ident.FormatID(rec.GetId())).
		hint("choose another peer URL, or first run: cfseed member remove %s", ident.FormatID(rec.GetId()))
}

func checkFields(op, name string, urls []string) error {
	if len(name) > MaxNameBytes {
		return refuse(fault.Usage, op, nil, "name of %d bytes, at most %d", len(name), MaxNameBytes)
	}
	if len(urls) > MaxURLs {
		return refuse(fault.Usage, op, nil, "%d URLs, at most %d", len(urls), MaxURLs)
	}
	for _, u := range urls {
		if len(u) > MaxURLBytes {
			return refuse(fault.Usage, op, nil, "URL of %d bytes, at most %d", len(u), MaxURLBytes)
		}
	}
	return nil
}

func checkNonce(op string, nonce []byte, optional bool) error {
	n, err := ident.NonceFrom(nonce)
	if err != nil || (n.IsZero() && (len(nonce) > 0 || !optional)) {
		return refuse(fault.Usage, op, nil, "directory nonce must be %d random bytes, got %d", nonceSize, len(nonce))
	}
	return nil
}
