package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// SchemaVersion is the version of the tables and records written; a store of
// a newer version is refused.
const SchemaVersion uint32 = 1

// Keys of the Meta table and of the pseudo records of the digest.
const (
	metaHead      = "head"
	metaSchema    = "schema"
	metaConf      = "conf"
	metaRevisions = "revisions"
)

// Revisions of an empty store, as etcd counts them.
const (
	firstRevision  = 1
	neverCompacted = -1
)

// maxConfMembers bounds the IDs in a head record before they are allocated.
const maxConfMembers = 1 << 16

const headFixed = 56

// head is the decoded Meta "head" record.
type head struct {
	pos      ident.Position
	digest   sum
	revision int64
	compact  int64
	conf     *entryv1.ConfState // never nil; replaced, never changed
}

func (h *head) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, h.pos.Term)
	dst = binary.BigEndian.AppendUint64(dst, h.pos.Index)
	d := h.digest.bytes()
	dst = append(dst, d[:]...)
	dst = appendRevisions(dst, h.revision, h.compact)
	return appendConf(dst, h.conf)
}

func appendRevisions(dst []byte, revision, compact int64) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(revision))
	return binary.BigEndian.AppendUint64(dst, uint64(compact))
}

func appendConf(dst []byte, c *entryv1.ConfState) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.GetVoters())))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.GetLearners())))
	for _, ids := range [][]uint64{c.GetVoters(), c.GetLearners()} {
		for _, id := range ids {
			dst = binary.BigEndian.AppendUint64(dst, id)
		}
	}
	return dst
}

func decodeHead(b []byte) (head, error) {
	if len(b) < headFixed {
		return head{}, fmt.Errorf("head record of %d bytes", len(b))
	}
	voters := binary.BigEndian.Uint32(b[48:])
	learners := binary.BigEndian.Uint32(b[52:])
	if voters > maxConfMembers || learners > maxConfMembers {
		return head{}, fmt.Errorf("head record with %d voters and %d learners", voters, learners)
	}
	if want := headFixed + 8*int(voters+learners); len(b) != want {
		return head{}, fmt.Errorf("head record of %d bytes, want %d", len(b), want)
	}
	h := head{
		pos: ident.Position{
			Term:  binary.BigEndian.Uint64(b),
			Index: binary.BigEndian.Uint64(b[8:]),
		},
		digest:   sumOf([16]byte(b[16:32])),
		revision: int64(binary.BigEndian.Uint64(b[32:])),
		compact:  int64(binary.BigEndian.Uint64(b[40:])),
	}
	if h.revision < firstRevision || h.compact < neverCompacted || h.compact > h.revision {
		return head{}, fmt.Errorf("head record with revision %d, compacted to %d", h.revision, h.compact)
	}
	ids := decodeIDs(b[headFixed:])
	h.conf = &entryv1.ConfState{Voters: ids[:voters:voters], Learners: ids[voters:]}
	if !ascending(h.conf.Voters) || !ascending(h.conf.Learners) {
		return head{}, fmt.Errorf("head record with unordered configuration %v", h.conf)
	}
	return h, nil
}

func decodeIDs(b []byte) []uint64 {
	ids := make([]uint64, len(b)/8)
	for i := range ids {
		ids[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return ids
}

func ascending(ids []uint64) bool {
	for i := 1; i < len(ids); i++ {
		if ids[i-1] >= ids[i] {
			return false
		}
	}
	return true
}

// sortedConf copies c with its IDs in order.
func sortedConf(c *entryv1.ConfState) *entryv1.ConfState {
	s := &entryv1.ConfState{Voters: slices.Clone(c.GetVoters()), Learners: slices.Clone(c.GetLearners())}
	slices.Sort(s.Voters)
	slices.Sort(s.Learners)
	return s
}

// emptyHead is the head of a store to which nothing was applied.
func emptyHead(hs *hasher) head {
	h := head{revision: firstRevision, compact: neverCompacted, conf: &entryv1.ConfState{}}
	h.digest.add(hashConf(hs, h.conf))
	h.digest.add(hashRevisions(hs, h.revision, h.compact))
	return h
}

func hashConf(hs *hasher, c *entryv1.ConfState) xxh3.Uint128 {
	return hs.record(appendPrefix(nil, Meta, []byte(metaConf)), appendConf(nil, c))
}

func hashRevisions(hs *hasher, revision, compact int64) xxh3.Uint128 {
	var key [16]byte
	var val [16]byte
	return hs.record(appendPrefix(key[:0], Meta, []byte(metaRevisions)), appendRevisions(val[:0], revision, compact))
}
