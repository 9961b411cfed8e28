package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot/span"
)

// seedSpans is a source that is here: a seed and what a server makes of it.
type seedSpans struct {
	seed  *Seed
	lie   func(c *span.Change) // changes an answer; may be nil
	moved int
}

func (s *seedSpans) records(fn func(span.Iterator) error) error {
	r, err := s.seed.OpenRecords()
	if err != nil {
		return err
	}
	it, err := r.Iterate()
	if err != nil {
		return errors.Join(err, r.Close())
	}
	return errors.Join(fn(it), it.Close(), r.Close())
}

func (s *seedSpans) List(_ context.Context, after [][]byte, spans int, fn func(span.Span) error) error {
	if len(after) == 0 {
		after = [][]byte{nil}
	}
	return s.records(func(it span.Iterator) error {
		w := span.NewWalk(it)
		for _, a := range after {
			w.SeekAfter(a)
			for n := 0; spans == 0 || n < spans; n++ {
				sp, err := w.Cut()
				if err != nil {
					return err
				}
				if err := fn(sp); err != nil {
					return err
				}
				if len(sp.End) == 0 {
					break
				}
			}
		}
		return nil
	})
}

func (s *seedSpans) Diff(_ context.Context, req *span.Request, compare func(a, b []byte) int, fn func(span.Change) error) error {
	return s.records(func(it span.Iterator) error {
		a := span.NewAnswerer(it)
		var answer []byte
		if err := span.ReadRequest(req.Encoded(), func(w span.Wanted) (err error) {
			answer, _, err = a.Append(answer, w)
			return err
		}); err != nil {
			return err
		}
		s.moved += len(req.Encoded()) + len(answer)
		return span.NewAnswerReader(req, compare).Feed(answer, func(c span.Change) error {
			if s.lie != nil {
				s.lie(&c)
			}
			return fn(c)
		})
	})
}

// rawRecords reads a state by Pebble's own eyes: the oracle of what is equal.
func rawRecords(t testing.TB, fs vfs.FS, dir string) []string {
	t.Helper()
	raw, err := store.OpenRaw(dir, store.Options{FS: fs, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	it, err := raw.Iterate()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for valid := it.SeekAfter(nil); valid; valid = it.Next() {
		v, err := it.Value()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%x=%x", it.Key(), v))
	}
	if err := errors.Join(it.Err(), it.Close(), raw.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

func equalRecords(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }

// makeBase closes a source and makes its state that of a stopped member.
func makeBase(t testing.TB, src *source, dir string) {
	t.Helper()
	src.close()
	d := datadir.At(src.fs, dir)
	id := anIdentity()
	id.MemberID, id.Name = 9, "old"
	err := errors.Join(src.fs.MkdirAll(dir, 0o755), src.fs.Rename(src.dir, d.State(1)),
		raftlog.Seed(d.Raft(), raftlog.Options{FS: src.fs}, raftlog.SeedState{Position: src.pos, State: 1}), d.CommitIdentity(id))
	if err != nil {
		t.Fatal(err)
	}
}

// diverged makes two states that have most in common: the base below base/, and
// the source's seed.
func diverged(t testing.TB, fs vfs.FS) *Seed {
	t.Helper()
	src := newSource(t, fs, "source/state-1")
	src.fill(400, 300)
	base := src.fork("origin/state-1")
	makeBase(t, base, "base")
	src.change(17)
	src.apply(func(b *store.Batch) error { return b.Set(store.AuthUsers, []byte("root"), []byte("someone")) })
	return src.capture("source/seeds/a")
}

// TestDelta: the state built is the source's, record by record, and little moved;
// the base is as it was; what is built installs like any seed.
func TestDelta(t *testing.T) {
	for name, fs := range map[string]vfs.FS{
		"with links": vfs.NewMem(), "without links": noLinks{vfs.NewMem()},
	} {
		t.Run(name, func(t *testing.T) {
			seed := diverged(t, fs)
			before := tree(t, fs, "base")
			src := &seedSpans{seed: seed}
			built, err := buildDelta(t.Context(), datadir.At(fs, "node"), "base", src)
			if err != nil {
				t.Fatal(err)
			}
			if !equalRecords(rawRecords(t, fs, built.dir), rawRecords(t, fs, seed.dir)) {
				t.Error("the records differ")
			}
			if src.moved > int(seed.m.TotalBytes()/4) {
				t.Errorf("%d bytes moved for a seed of %d", src.moved, seed.m.TotalBytes())
			}
			if built.Root() == seed.Root() || built.Position() != seed.Position() {
				t.Errorf("built %x at %s", built.Root(), built.Position())
			}
			if err := installBuilt(datadir.At(fs, "node"), built); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(fs, "node", built); err != nil {
				t.Error(err)
			}
			if !equalRecords(rawRecords(t, fs, "node/state-1"), rawRecords(t, fs, seed.dir)) {
				t.Error("the installed records differ")
			}
			if after := tree(t, fs, "base"); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Error("the base has changed")
			}
		})
	}
}

// buildDelta does what a pull does up to the seed.
func buildDelta(ctx context.Context, d *datadir.Dir, base string, src *seedSpans) (*Seed, error) {
	delta, err := OpenDelta(ctx, d, base, nil)
	if err != nil {
		return nil, err
	}
	built, err := delta.Build(ctx, src, src.seed.Manifest())
	return built, errors.Join(err, delta.Close())
}

// installBuilt does the rest.
func installBuilt(d *datadir.Dir, built *Seed) error {
	if _, err := built.StageIn(d); err != nil {
		return err
	}
	return join(d, built)
}

// TestDeltaOfAnything: whatever two states hold, what is built is the source's.
func TestDeltaOfAnything(t *testing.T) {
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		if checks++; testing.Short() && checks > 15 {
			return // enough
		}
		fs := vfs.NewMem()
		src := newSource(t, fs, "source/state-1")
		for range rapid.IntRange(0, 3).Draw(rt, "rounds before") {
			src.fill(rapid.IntRange(0, 90).Draw(rt, "keys"), 40)
		}
		base := src.fork("origin/state-1")
		if rapid.Bool().Draw(rt, "base goes on") {
			base.fill(rapid.IntRange(1, 150).Draw(rt, "base's own"), 30)
		}
		makeBase(t, base, "base")
		for range rapid.IntRange(0, 3).Draw(rt, "rounds after") {
			src.change(rapid.IntRange(1, 40).Draw(rt, "every"))
			src.fill(rapid.IntRange(0, 90).Draw(rt, "more"), 40)
			src.apply(func(b *store.Batch) error {
				return b.Set(store.Alarms, []byte{byte(src.pos.Index)}, []byte("an alarm"))
			})
		}
		seed := src.capture("source/seeds/a")
		built, err := buildDelta(t.Context(), datadir.At(fs, "node"), "base", &seedSpans{seed: seed})
		if err != nil {
			rt.Fatal(err)
		}
		if !equalRecords(rawRecords(t, fs, built.dir), rawRecords(t, fs, seed.dir)) {
			rt.Fatal("the records differ")
		}
		src.close()
	})
}

// A wrong record in an answer is found by the comparison with the source's
// digests, if it stays; one that was left out once is fetched with its span.
func TestDeltaProves(t *testing.T) {
	flipOne := func(c *span.Change) {
		for i := range c.Put {
			if v := c.Put[i].Value; len(v) > 100 {
				v = bytes.Clone(v)
				v[50] ^= 1
				c.Put[i].Value = v
				return
			}
		}
	}
	for name, tc := range map[string]struct {
		lie  func(calls *int) func(c *span.Change)
		code fault.Code
	}{
		"a flipped bit, each time": {func(*int) func(*span.Change) { return flipOne }, fault.Corrupt},
		"a record left out once": {func(calls *int) func(*span.Change) {
			return func(c *span.Change) {
				if len(c.After) > 0 && len(c.Put) > 0 && *calls == 0 {
					*calls++
					c.Put = c.Put[1:]
				}
			}
		}, ""},
		"a deletion left out once": {func(calls *int) func(*span.Change) {
			return func(c *span.Change) {
				if len(c.After) > 0 && c.Hashes > 0 && *calls == 0 {
					*calls++
					c.Gone, c.Put = make([]byte, len(c.Gone)), nil
				}
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			seed := diverged(t, fs)
			calls := 0
			built, err := buildDelta(t.Context(), datadir.At(fs, "node"), "base", &seedSpans{seed: seed, lie: tc.lie(&calls)})
			if fault.CodeOf(err) != tc.code {
				t.Fatalf("%v, want %q", err, tc.code)
			}
			if err == nil && (calls == 0 || !equalRecords(rawRecords(t, fs, built.dir), rawRecords(t, fs, seed.dir))) {
				t.Errorf("%d lies; the records differ", calls)
			}
			if names, _ := list(fs, "node/staging/delta"); err != nil && len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
	if a := []string{"1=1"}; equalRecords(a, []string{"1=2"}) || equalRecords(a, nil) || !equalRecords(a, []string{"1=1"}) {
		t.Error("the oracle sees nothing")
	}
}

// The source goes away in the middle, and another one has another seed.
func TestDeltaGoesOn(t *testing.T) {
	fs := vfs.NewMem()
	seed := diverged(t, fs)
	delta, err := OpenDelta(t.Context(), datadir.At(fs, "node"), "base", nil)
	if err != nil {
		t.Fatal(err)
	}
	other := diverged(t, vfs.NewMem())
	away := errors.New("away")
	for _, src := range []SpanSource{
		leaving{SpanSource: &seedSpans{seed: other}, diff: away, after: 1},
		leaving{SpanSource: &seedSpans{seed: seed}, list: away},
	} {
		if _, err := delta.Build(t.Context(), src, seed.Manifest()); !errors.Is(err, away) {
			t.Fatalf("%v", err)
		}
	}
	built, err := delta.Build(t.Context(), &seedSpans{seed: seed}, seed.Manifest())
	if err := errors.Join(err, delta.Close()); err != nil {
		t.Fatal(err)
	}
	if !equalRecords(rawRecords(t, fs, built.dir), rawRecords(t, fs, seed.dir)) {
		t.Error("the records differ")
	}
}

// leaving is a source that goes away.
type leaving struct {
	SpanSource
	list, diff error
	after      int // spans of an answer
}

func (f leaving) List(ctx context.Context, after [][]byte, spans int, fn func(span.Span) error) error {
	n := 0
	return f.SpanSource.List(ctx, after, spans, func(s span.Span) error {
		if n++; f.list != nil && n > 1 {
			return f.list
		}
		return fn(s)
	})
}

func (f leaving) Diff(ctx context.Context, req *span.Request, compare func(a, b []byte) int, fn func(span.Change) error) error {
	n := 0
	return f.SpanSource.Diff(ctx, req, compare, func(c span.Change) error {
		if n++; f.diff != nil && n > f.after {
			return f.diff
		}
		return fn(c)
	})
}

// A base of another cluster is refused.
func TestDeltaRefusals(t *testing.T) {
	fs := vfs.NewMem()
	seed := diverged(t, fs)
	if _, err := OpenDelta(t.Context(), datadir.At(fs, "node"), "nothing", nil); !fault.Is(err, fault.Refused) {
		t.Errorf("no base: %v", err)
	}
	delta, err := OpenDelta(t.Context(), datadir.At(fs, "node"), "base", nil)
	if err != nil {
		t.Fatal(err)
	}
	other := *seed.Manifest()
	other.Cluster = ident.Cluster{ID: 77}
	if _, err := delta.Build(t.Context(), &seedSpans{seed: seed}, &other); !fault.Is(err, fault.Refused) {
		t.Errorf("another cluster: %v", err)
	}
	other = *seed.Manifest()
	other.StateDigest[3] ^= 1
	if _, err := delta.Build(t.Context(), &seedSpans{seed: seed}, &other); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a digest that is not the state's: %v", err)
	}
	if err := errors.Join(delta.Close(), delta.Close()); err != nil {
		t.Error(err)
	}
}

// endless is a source whose list does not end, or goes back.
type endless struct {
	SpanSource
	back bool
}

func (e endless) List(_ context.Context, _ [][]byte, _ int, fn func(span.Span) error) error {
	for i := uint64(1); ; i++ {
		key := fmt.Appendf(nil, "%020d", i)
		if e.back && i == 100 {
			key = []byte("0")
		}
		if err := fn(span.Span{End: key, Count: 1}); err != nil {
			return err
		}
	}
}

// A list that no seed has is not kept, nor one that is cut short.
func TestDeltaRefusesLists(t *testing.T) {
	fs := vfs.NewMem()
	seed := diverged(t, fs)
	delta, err := OpenDelta(t.Context(), datadir.At(fs, "node"), "base", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]SpanSource{
		"endless": endless{}, "out of order": endless{back: true}, "empty": nothing{},
	} {
		if _, err := delta.Build(t.Context(), src, seed.Manifest()); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := delta.Close(); err != nil {
		t.Error(err)
	}
}

// nothing is a source without a word.
type nothing struct{ SpanSource }

func (nothing) List(context.Context, [][]byte, int, func(span.Span) error) error { return nil }

// TestDeltaSample: what a look finds is about what there is.
func TestDeltaSample(t *testing.T) {
	fs := vfs.NewMem()
	seed := diverged(t, fs)
	delta, err := OpenDelta(t.Context(), datadir.At(fs, "node"), "base", nil)
	if err != nil {
		t.Fatal(err)
	}
	src := &seedSpans{seed: seed}
	found, err := delta.Sample(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if found.Base < 100_000 || found.Base > 1_000_000 || found.Compared < 100_000 || found.Differ == 0 || found.Differ > found.Spans || src.moved == 0 {
		t.Errorf("%+v, %d bytes moved", found, src.moved)
	}
	if err := delta.Close(); err != nil {
		t.Error(err)
	}
}

// The power goes before every single change of the disk: no node or a whole one,
// and running it again makes a whole one.
func TestDeltaCrashAtEveryOperation(t *testing.T) {
	mem := newCloneable()
	src := newSource(t, mem, "source/state-1")
	src.fill(90, 300)
	makeBase(t, src.fork("origin/state-1"), "base")
	src.change(5)
	there := vfs.NewMem()
	if _, err := vfs.Clone(mem, there, "source", "source"); err != nil {
		t.Fatal(err)
	}
	src.close()
	seed := func() *Seed { // its own disk: another machine
		st, err := store.Open("source/state-1", store.Options{FS: there})
		if err != nil {
			t.Fatal(err)
		}
		s, err := Capture(t.Context(), there, st, "source/seed")
		if err := errors.Join(err, st.Close()); err != nil {
			t.Fatal(err)
		}
		return s
	}()
	want := rawRecords(t, there, seed.dir)
	mem.MemFS = mem.clone(100, 0) // all of it is durable
	run := func(fs vfs.FS) error {
		d := datadir.At(fs, "node")
		if err := d.Begin(); err != nil {
			return err
		}
		built, err := buildDelta(context.Background(), d, "base", &seedSpans{seed: seed})
		if err != nil {
			return err
		}
		return errors.Join(installBuilt(d, built), built.Remove())
	}
	check := func(c crash) (whole bool, err error) {
		d := datadir.At(c.fs, "node")
		class, err := d.Classify()
		if err != nil {
			return false, err
		}
		if whole = class == datadir.Complete; !whole {
			err = run(c.fs)
		}
		if err == nil && !equalRecords(rawRecords(t, c.fs, d.State(1)), want) {
			err = errors.New("the records differ")
		}
		return whole, err
	}
	found := make(chan crash)
	inj := &crashes{fs: mem, seeds: 1, found: found}
	var mu sync.Mutex
	runs, wholes, n := 0, 0, 0
	var group errgroup.Group
	for range 2 {
		group.Go(func() (first error) {
			for c := range found {
				mu.Lock()
				n++
				skip := n%fewerCrashes() != 0
				mu.Unlock()
				if skip || first != nil {
					continue
				}
				whole, err := check(c)
				if err != nil {
					first = fmt.Errorf("%s: %w", c.what, err)
				}
				mu.Lock()
				runs++
				if whole {
					wholes++
				}
				mu.Unlock()
			}
			return first
		})
	}
	err := run(errorfs.Wrap(mem, inj))
	inj.clone("at the end")
	close(found)
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes of the disk; %d crashes, %d of them left a whole node", inj.changing, runs, wholes)
	if runs < 20 || wholes == 0 || wholes == runs {
		t.Errorf("%d wholes of %d", wholes, runs)
	}
}

// fewerCrashes says of how many crashes one is looked at; -crash-seeds above 1
// looks at all.
func fewerCrashes() int {
	if *crashSeeds > 1 {
		return 1
	}
	return 7
}
