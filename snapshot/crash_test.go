package snapshot

import (
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
)

// lockedInjector makes an injector safe for the goroutines of the store.
type lockedInjector struct {
	mu  sync.Mutex
	inj *failing
}

func (s *lockedInjector) String() string { return "lockedInjector" }

func (s *lockedInjector) MaybeError(op errorfs.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inj.MaybeError(op)
}

func (s *lockedInjector) hit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inj.seen >= s.inj.k
}

// crash is what the disk may hold when the power goes at one moment.
type crash struct {
	fs   *vfs.MemFS
	what string
}

// crashes is an injector that fails nothing, but hands out clones of the disk
// as it may be when the power goes before each operation that changes it.
type crashes struct {
	mu       sync.Mutex
	fs       cloneableFS
	seeds    uint64 // per percentage
	ops      int    // of any kind
	changing int
	found    chan<- crash
}

func (c *crashes) String() string { return "crashes" }

func (c *crashes) MaybeError(op errorfs.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops++
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil // the disk is as it was before the next change
	}
	c.changing++
	c.clone(fmt.Sprintf("before change %d (kind %d of %s)", c.changing, op.Kind, op.Path))
	return nil
}

func (c *crashes) clone(when string) {
	percents := []int{0, 25, 50, 75, 100}
	if testing.Short() {
		percents = []int{0, 50, 100}
	}
	for _, percent := range percents {
		seeds := c.seeds
		if percent%100 == 0 {
			seeds = 1 // chance has no part in it
		}
		for seed := range seeds {
			c.found <- crash{
				fs:   c.fs.clone(percent, seed+uint64(c.changing)*1000),
				what: fmt.Sprintf("%s, %d %% of what was not synced, seed %d", when, percent, seed),
			}
		}
	}
}

// install is a way from a seed to a node, and the oracle of what comes of it.
type install struct {
	run   func(d *datadir.Dir, seed *Seed) error
	whole func(fs vfs.FS, dir string, seed *Seed) error
}

func joining() install { return install{join, checkWhole} }

// afterCrash checks a disk after a crash during an install: no node or a whole
// one, and running it again makes a whole one.
func (in install) afterCrash(fs *vfs.MemFS, seed *Seed) (whole bool, err error) {
	d := datadir.At(fs, "node")
	class, err := d.Classify()
	if err != nil {
		return false, err
	}
	switch class {
	case datadir.Complete:
		return true, in.whole(fs, "node", seed)
	case datadir.Foreign:
		return false, errors.New("the directory is not recognised as ours")
	}
	if err := in.run(d, seed); err != nil {
		return false, fmt.Errorf("run again: %w", err)
	}
	if err := in.whole(fs, "node", seed); err != nil {
		return false, fmt.Errorf("run again: %w", err)
	}
	return false, nil
}

var crashSeeds = flag.Uint64("crash-seeds", 1, "how often each crash is repeated with other luck; 20 is thorough")

// starts are the directories that a join may find.
func starts() map[string]func(t *testing.T, d *datadir.Dir, seed *Seed) {
	return map[string]func(t *testing.T, d *datadir.Dir, seed *Seed){
		"new directory": func(*testing.T, *datadir.Dir, *Seed) {},
		"another seed staged": func(t *testing.T, d *datadir.Dir, _ *Seed) {
			src := newSource(t, vfs.NewMem(), "src/state-1")
			src.fill(30, 1000)
			staged(t, d, src.capture("src/a"))
		},
		"install cut off before its commit": func(t *testing.T, d *datadir.Dir, seed *Seed) {
			st, id := staged(t, d, seed), anIdentity()
			if err := errors.Join(st.complete(&id), st.Verify(t.Context()), st.install(id, InstallOptions{})); err != nil {
				t.Fatal(err)
			}
			// Not synced: the commit may come back, while the join is run again.
			if err := d.FS().Remove(d.Identity()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// The power goes before every single change of the disk, from the first chunk
// to the last removal; what was not synced is lost, kept, or partly kept.
func TestCrashAtEveryOperation(t *testing.T) {
	seed := newTestSeed(t)
	for name, start := range starts() {
		t.Run(name, func(t *testing.T) {
			mem := newCloneable()
			start(t, datadir.At(mem, "node"), seed)
			joining().crashEverywhere(t, mem, seed)
		})
	}
}

func (in install) crashEverywhere(t *testing.T, mem cloneableFS, seed *Seed) {
	found := make(chan crash)
	inj := &crashes{fs: mem, seeds: *crashSeeds, found: found}
	var mu sync.Mutex
	runs, wholes := 0, 0
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			var first error
			for c := range found { // to the end, or the join would wait
				whole, err := in.afterCrash(c.fs, seed)
				if err != nil && first == nil {
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
	err := in.run(datadir.At(errorfs.Wrap(mem, inj), "node"), seed)
	inj.changing++
	inj.clone("at the end")
	close(found)
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("K = %d operations, %d of them change the disk; %d crashes: %d no node, %d a whole node, 0 between; all resumed",
		inj.ops, inj.changing-1, runs, runs-wholes, wholes)
	if inj.changing < 40 || wholes == 0 || wholes == runs {
		t.Errorf("%d changes, %d wholes of %d", inj.changing, wholes, runs)
	}
}

// After the power comes back nothing of an installed node may depend on luck.
func TestInstalledNodeSurvivesLosingAllUnsynced(t *testing.T) {
	seed := newTestSeed(t)
	mem := newCloneable()
	if err := join(datadir.At(mem, "node"), seed); err != nil {
		t.Fatal(err)
	}
	crashed := mem.clone(0, 0)
	if err := checkWhole(crashed, "node", seed); err != nil {
		t.Fatal(err)
	}
	if there, _ := exists(crashed, "node/staging"); there {
		t.Error("staging/ came back")
	}
}
