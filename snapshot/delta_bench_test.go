package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/span"
)

// benchAccounts writes a value of 256 bytes of JSON for each of some accounts.
func benchAccounts(b *testing.B, src *source, accounts []int, rng *rand.Rand) {
	b.Helper()
	next := int64(src.pos.Index) + 2
	for len(accounts) > 0 {
		n := min(1000, len(accounts))
		src.apply(func(batch *store.Batch) error {
			batch.SetRevision(next)
			for _, i := range accounts[:n] {
				value := fmt.Appendf(nil, `{"id":"%08d","owner":"%016x","balance":%d,"note":"%0180d"}`, i, rng.Uint64(), rng.IntN(1e6), i)
				if err := batch.SetVersion(fmt.Appendf(nil, "account/%08d", i), store.Version{Revision: next, Live: true, Value: value}, store.Version{}); err != nil {
					return err
				}
			}
			return nil
		})
		next, accounts = next+1, accounts[n:]
	}
}

// BenchmarkDeltaCompare lists, compares, applies and proves 64 MiB of values of
// which 5 % changed: MB/s are of records, for both sides together.
func BenchmarkDeltaCompare(b *testing.B) {
	const accounts = 64 << 20 / 256
	fs := vfs.Default
	dir := b.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	src := newSource(b, fs, dir+"/source/state-1")
	benchAccounts(b, src, rng.Perm(accounts), rng)
	makeBase(b, src.fork(dir+"/origin/state-1"), dir+"/base")
	benchAccounts(b, src, rng.Perm(accounts)[:accounts/20], rng)
	seed := src.capture(dir + "/source/seed")
	var bytes uint64
	from := &seedSpans{seed: seed}
	if err := from.List(b.Context(), nil, 0, func(s span.Span) error { bytes += s.Bytes; return nil }); err != nil {
		b.Fatal(err)
	}
	b.Run("list", func(b *testing.B) {
		b.SetBytes(int64(bytes))
		for b.Loop() {
			if err := from.List(b.Context(), nil, 0, func(span.Span) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		b.SetBytes(int64(bytes))
		for b.Loop() {
			built, err := buildDelta(context.Background(), datadir.At(fs, dir+"/node"), dir+"/base", from)
			if err == nil {
				err = built.Remove()
			}
			if err := errors.Join(err, datadir.At(fs, dir+"/node").RemoveStaging()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
