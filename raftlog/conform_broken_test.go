package raftlog

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// broken is a log that lies in one way.
type broken struct {
	*real
	entries func(lo, hi, size uint64) ([]*raftpb.Entry, error)
	term    func(i uint64) (uint64, error)
	hard    func() *raftpb.HardState
	append  func(Batch) Batch
	reopen  func() error
}

func (b *broken) Entries(lo, hi, size uint64) ([]*raftpb.Entry, error) {
	if b.entries != nil {
		return b.entries(lo, hi, size)
	}
	return b.real.Entries(lo, hi, size)
}

func (b *broken) Term(i uint64) (uint64, error) {
	if b.term != nil {
		return b.term(i)
	}
	return b.real.Term(i)
}

func (b *broken) HardState() *raftpb.HardState {
	if b.hard != nil {
		return b.hard()
	}
	return b.real.HardState()
}

func (b *broken) Append(batch Batch, sync bool) error {
	if b.append != nil {
		batch = b.append(batch)
	}
	return b.real.Append(batch, sync)
}

func (b *broken) Reopen() error {
	if b.reopen != nil {
		return b.reopen()
	}
	return b.real.Reopen()
}

// TestSuiteCatchesBrokenLogs is the proof that the suite can fail.
func TestSuiteCatchesBrokenLogs(t *testing.T) {
	for seed := range 200 { // the same runs pass on a log that does not lie
		s, err := newReal(500)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(conform(&broken{real: s}, opsGen(25).Example(seed)), s.Close())
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]func(*broken){
		"other entries than asked for": func(b *broken) {
			b.entries = func(lo, hi, size uint64) ([]*raftpb.Entry, error) {
				if last, _ := b.LastIndex(); hi <= last {
					lo, hi = lo+1, hi+1
				}
				return b.real.Entries(lo, hi, size)
			}
		},
		"one entry too many": func(b *broken) {
			b.entries = func(lo, hi, size uint64) ([]*raftpb.Entry, error) {
				ents, err := b.real.Entries(lo, hi, size)
				if err != nil || size > 1<<20 {
					return ents, err
				}
				return b.real.Entries(lo, hi, size+8)
			}
		},
		"nothing when the first does not fit": func(b *broken) {
			b.entries = func(lo, hi, size uint64) ([]*raftpb.Entry, error) {
				ents, err := b.real.Entries(lo, hi, size)
				if size == 0 && len(ents) > 0 {
					ents = nil
				}
				return ents, err
			}
		},
		"the wrong sentinel": func(b *broken) {
			b.entries = func(lo, hi, size uint64) ([]*raftpb.Entry, error) {
				ents, err := b.real.Entries(lo, hi, size)
				if errors.Is(err, raft.ErrCompacted) {
					err = raft.ErrUnavailable
				}
				return ents, err
			}
		},
		"the term at the truncation point forgotten": func(b *broken) {
			b.term = func(i uint64) (uint64, error) {
				if first, _ := b.FirstIndex(); i+1 == first && i > 0 {
					return 0, raft.ErrCompacted
				}
				return b.real.Term(i)
			}
		},
		"commit lags": func(b *broken) {
			b.hard = func() *raftpb.HardState {
				hs := b.real.HardState()
				if hs.GetCommit() > 0 {
					hs.Commit = proto.Uint64(hs.GetCommit() - 1)
				}
				return hs
			}
		},
		"batches of one entry lost": func(b *broken) {
			b.append = func(batch Batch) Batch {
				if len(batch.Entries) == 1 {
					batch.Entries = nil
				}
				return batch
			}
		},
		"an older entry after a restart": func(b *broken) {
			b.reopen = func() error {
				last, _ := b.LastIndex()
				ents, err := b.real.Entries(last, last+1, 0)
				if err == nil {
					old := proto.Clone(ents[0]).(*raftpb.Entry)
					old.Data = []byte("old")
					err = b.real.Append(Batch{Entries: []*raftpb.Entry{old}}, true)
				}
				return errors.Join(b.real.Reopen(), err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 200 {
				s, err := newReal(500)
				if err != nil {
					t.Fatal(err)
				}
				b := &broken{real: s}
				spoil(b)
				err = conform(b, opsGen(25).Example(seed))
				_ = s.Close()
				if err != nil {
					return
				}
			}
			t.Fatal("passed 200 runs of the suite")
		})
	}
}
