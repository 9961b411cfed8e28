package snapshot

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
)

// steps is an injector that writes down what changes the disk.
type steps struct {
	mu   sync.Mutex
	out  strings.Builder
	last string // repeated lines are folded
}

func (s *steps) String() string { return "steps" }

func (s *steps) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpFileClose || op.Kind == errorfs.OpFilePreallocate {
		return nil
	}
	names := map[errorfs.OpKind]string{
		errorfs.OpCreate: "create", errorfs.OpRemove: "remove", errorfs.OpRemoveAll: "remove-all",
		errorfs.OpRename: "rename", errorfs.OpMkdirAll: "mkdir", errorfs.OpLock: "lock",
		errorfs.OpFileWrite: "write", errorfs.OpFileWriteAt: "write", errorfs.OpFileSync: "sync",
		errorfs.OpFileSyncTo: "write back",
	}
	name := names[op.Kind]
	if name == "" {
		name = fmt.Sprintf("operation-%d", op.Kind)
	}
	path := op.Path
	if strings.HasPrefix(path, "node/raft") {
		name, path = "...", "node/raft"
	}
	if dir, _, ok := strings.Cut(path, "/files/"); ok { // names and order differ from run to run
		if path = dir + "/files/*"; name == "write" || name == "write back" {
			return nil // between two syncs
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line(name + " " + path)
	return nil
}

func (s *steps) line(line string) {
	if line == s.last {
		return
	}
	s.last = line
	fmt.Fprintln(&s.out, line)
}

func TestSteps(t *testing.T) {
	ctx := context.Background()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(20, 1000)
	seed := src.capture("src/seeds/a")
	src.fill(20, 1000)
	later := src.capture("src/seeds/b")
	datadriven.RunTest(t, "testdata/install", func(t *testing.T, td *datadriven.TestData) string {
		mem := vfs.NewMem()
		d := datadir.At(mem, "node")
		log := &steps{}
		logged := datadir.At(errorfs.Wrap(mem, log), "node")
		switch td.Cmd {
		case "join":
			if len(td.CmdArgs) > 0 { // again
				st, id := staged(t, d, seed), anIdentity()
				if err := st.complete(&id); err != nil {
					t.Fatal(err)
				}
				if err := st.install(id, InstallOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := mem.Remove(d.Identity()); err != nil {
					t.Fatal(err)
				}
			}
			if err := join(logged, seed); err != nil {
				t.Fatal(err)
			}
		case "new-state":
			if err := join(d, seed); err != nil {
				t.Fatal(err)
			}
			st, err := OpenMemberStage(ctx, logged, later.ManifestBytes())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := putMissing(later, st); err != nil {
				t.Fatal(err)
			}
			if err := st.InstallState(ctx, 2); err != nil {
				t.Fatal(err)
			}
		}
		return log.out.String()
	})
}
