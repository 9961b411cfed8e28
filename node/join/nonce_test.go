package join

import (
	"bytes"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

var errInjected = errors.New("injected")

// TestDirectoryNonceCrash loses power after each file-system operation of the
// first start, with nothing of what was not synced kept: the next start has a
// nonce, and once the first was told its nonce, the same.
func TestDirectoryNonceCrash(t *testing.T) {
	for k, done := int32(0), false; !done; k++ {
		mem := vfs.NewCrashableMem()
		left := atomic.Int32{}
		left.Store(k)
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && left.Add(-1) < 0 {
				return errInjected
			}
			return nil
		}))
		told, err := DirectoryNonce(datadir.At(fs, "a/data"), rand.Reader)
		if done = err == nil; !done && !errors.Is(err, errInjected) {
			t.Fatalf("operation %d: %v", k, err)
		}
		after := datadir.At(mem.CrashClone(vfs.CrashCloneCfg{}), "a/data")
		again, err := DirectoryNonce(after, rand.Reader)
		if err != nil || again.IsZero() {
			t.Fatalf("after a crash at %d: %s, %v", k, again, err)
		}
		if done && again != told {
			t.Errorf("told %s, after a crash it is %s", told, again)
		}
		if class, err := after.Classify(); err != nil || class != datadir.Staged {
			t.Errorf("after a crash at %d the directory is %s, %v", k, class, err)
		}
		if done && k < 3 {
			t.Errorf("only %d operations were tried", k)
		}
	}
}

func TestDirectoryNonce(t *testing.T) {
	fs := vfs.NewMem()
	d := datadir.At(fs, "data")
	first, err := DirectoryNonce(d, bytes.NewReader(bytes.Repeat([]byte{1}, 16)))
	if err != nil || first != (ident.Nonce{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}) {
		t.Fatalf("%s, %v", first, err)
	}
	if again, err := DirectoryNonce(d, bytes.NewReader(nil)); err != nil || again != first {
		t.Errorf("%s, %v", again, err)
	}
	path := fs.PathJoin(d.Staging(), nonceFile)
	for _, damaged := range []string{"", "00", "zz" + first.String()[2:], first.String() + "00"} {
		if err := datadir.WriteFileSynced(fs, path, []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		if _, err := DirectoryNonce(d, bytes.NewReader(nil)); !fault.Is(err, fault.Internal) {
			t.Errorf("%q and no randomness: %v", damaged, err)
		}
		if n, err := DirectoryNonce(d, rand.Reader); err != nil || n == first {
			t.Errorf("%q: %s, %v", damaged, n, err)
		}
	}
	member := datadir.At(fs, "member")
	if err := errors.Join(member.Begin(), member.CommitIdentity(datadir.Identity{MemberID: 1})); err != nil {
		t.Fatal(err)
	}
	if err := member.RemoveStaging(); err != nil {
		t.Fatal(err)
	}
	if _, err := DirectoryNonce(member, rand.Reader); !fault.Is(err, fault.NotEmpty) {
		t.Errorf("a nonce for a member's directory: %v", err)
	}
}
