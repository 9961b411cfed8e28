package raftlog

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkAppend appends batches of entries of 256 bytes, truncating behind
// as a member does; one operation is one batch.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
		sync bool
	}{{"nosync/1", 1, false}, {"nosync/16", 16, false}, {"sync/1", 1, true}, {"sync/64", 64, true}} {
		b.Run(c.name, func(b *testing.B) {
			l, err := Open(b.TempDir()+"/raft", Options{FS: vfs.Default})
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 256)
			term, last := uint64(1), uint64(0)
			b.SetBytes(int64(c.n * len(data)))
			b.ReportAllocs()
			for b.Loop() {
				ents := make([]*raftpb.Entry, c.n)
				for i := range ents {
					last++
					index := last
					ents[i] = &raftpb.Entry{Term: &term, Index: &index, Data: data}
				}
				if err := l.Append(Batch{Entries: ents, HardState: hard(1, 1, last)}, c.sync); err != nil {
					b.Fatal(err)
				}
				if first, _ := l.FirstIndex(); last-first > 20_000 {
					if err := l.Truncate(last - 10_000); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkEntries reads 100 entries of 256 bytes, from memory and from the
// store.
func BenchmarkEntries(b *testing.B) {
	for _, recent := range []uint64{1, 1 << 20} {
		b.Run(fmt.Sprintf("recent=%d", recent), func(b *testing.B) {
			l, err := Open(b.TempDir()+"/raft", Options{FS: vfs.Default, recentBytes: recent})
			if err != nil {
				b.Fatal(err)
			}
			var ents []*raftpb.Entry
			for i := uint64(1); i <= 1000; i++ {
				ents = append(ents, entry(1, i, string(make([]byte, 256))))
			}
			if err := l.Append(Batch{Entries: ents, HardState: hard(1, 0, 1000)}, true); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if got, err := l.Entries(500, 600, 1<<20); err != nil || len(got) != 100 {
					b.Fatal(len(got), err)
				}
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
