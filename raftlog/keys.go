package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/ident"
)

// Keys and sizes; part of the format.
const (
	keyFormat = 0x00
	keyHard   = 0x01
	keyTrunc  = 0x02
	keyState  = 0x03
	keyEntry  = 0x10
	keyEnd    = keyEntry + 1 // above every entry

	formatMagic   = "CFRFTLOG"
	formatVersion = 1

	entryKeySize = 1 + 8
	hardSize     = 3 * 8
	truncSize    = 2 * 8
	stateSize    = 8
)

// errNewer says that a newer program wrote the log.
var errNewer = errors.New("written in a newer format")

// hardState is a HardState by value; the zero value is "nothing yet".
type hardState struct {
	term, vote, commit uint64
}

func hardOf(hs *raftpb.HardState) hardState {
	return hardState{term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit()}
}

// proto gives nil for the empty HardState.
func (h hardState) proto() *raftpb.HardState {
	if h == (hardState{}) {
		return nil
	}
	return &raftpb.HardState{Term: &h.term, Vote: &h.vote, Commit: &h.commit}
}

func appendEntryKey(b []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, keyEntry), index)
}

func encodeFormat() []byte {
	return binary.BigEndian.AppendUint16([]byte(formatMagic), formatVersion)
}

func encodeHard(h hardState) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, hardSize), h.term)
	b = binary.BigEndian.AppendUint64(b, h.vote)
	return binary.BigEndian.AppendUint64(b, h.commit)
}

func encodeTrunc(p ident.Position) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, truncSize), p.Term)
	return binary.BigEndian.AppendUint64(b, p.Index)
}

func encodeState(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodeFormat(b []byte) error {
	if len(b) != len(formatMagic)+2 || string(b[:len(formatMagic)]) != formatMagic {
		return errors.New("format: not a Raft log of ours")
	}
	v := binary.BigEndian.Uint16(b[len(formatMagic):])
	switch {
	case v > formatVersion:
		return fmt.Errorf("%w: version %d, this program knows %d", errNewer, v, formatVersion)
	case v == 0:
		return errors.New("format: version 0")
	}
	return nil
}

func decodeHard(b []byte) (hardState, error) {
	if len(b) != hardSize {
		return hardState{}, fmt.Errorf("HardState of %d bytes, want %d", len(b), hardSize)
	}
	be := binary.BigEndian
	return hardState{term: be.Uint64(b), vote: be.Uint64(b[8:]), commit: be.Uint64(b[16:])}, nil
}

func decodeTrunc(b []byte) (ident.Position, error) {
	if len(b) != truncSize {
		return ident.Position{}, fmt.Errorf("truncation point of %d bytes, want %d", len(b), truncSize)
	}
	return ident.Position{Term: binary.BigEndian.Uint64(b), Index: binary.BigEndian.Uint64(b[8:])}, nil
}

func decodeState(b []byte) (uint64, error) {
	if len(b) != stateSize {
		return 0, fmt.Errorf("state pointer of %d bytes, want %d", len(b), stateSize)
	}
	return binary.BigEndian.Uint64(b), nil
}

func decodeEntryKey(b []byte) (uint64, error) {
	if len(b) != entryKeySize || b[0] != keyEntry {
		return 0, fmt.Errorf("entry key % x", b)
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}

// decodeEntry reads the record of an entry and checks that it is the one of
// its key. The entry does not share memory with value.
func decodeEntry(key, value []byte) (*raftpb.Entry, error) {
	index, err := decodeEntryKey(key)
	if err != nil {
		return nil, err
	}
	e := &raftpb.Entry{}
	if err := proto.Unmarshal(value, e); err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	if e.GetIndex() != index {
		return nil, fmt.Errorf("entry %d says it is %d", index, e.GetIndex())
	}
	if e.GetTerm() == 0 {
		return nil, fmt.Errorf("entry %d has no term", index)
	}
	return e, nil
}
