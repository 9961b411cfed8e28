package node

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/replica"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// receiver is a member in memory whose Ready loop and workers run, and nothing
// else: what it sends is lost, and the files of a snapshot are made up.
type receiver struct {
	*member
	t        *testing.T
	in       *installer
	other    uint64 // the member that leads
	during   func(ctx context.Context, index uint64) error
	proposed chan []byte // what it forwards to a leader
}

// inReceiver runs fn with the receiver, inside a bubble. The loop must not end
// before fn does.
func inReceiver(t *testing.T, fn func(r *receiver)) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := Config{Name: "self", DataDir: "self", FS: vfs.NewMem(), Rand: rand.Reader,
			InitialCluster: "self=http://127.0.0.1:1,other=http://127.0.0.1:2"}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		n := &node{cfg: cfg, dir: datadir.At(cfg.FS, cfg.DataDir), logger: cfg.Logger,
			registry: registry{prometheus.NewRegistry()}, fronts: &fronts{}}
		n.metrics = newMetrics(n.registry)
		id, err := n.bootstrap()
		if err != nil {
			t.Fatal(err)
		}
		m, err := n.openMember(id)
		if err == nil {
			err = m.startRaft()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := &receiver{member: m, t: t, in: m.installer, proposed: make(chan []byte, 64),
			during: func(context.Context, uint64) error { return nil }}
		r.in.fetch = r.makeUp
		m.core.send = r.note
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- m.core.run(ctx) }()
		for m.state.machine().Applied().Index < 2 { // the first entries
			m.leader.wait(t.Context(), time.Second)
		}
		for _, voter := range m.state.machine().ConfState().GetVoters() {
			if voter != id.MemberID {
				r.other = voter
			}
		}
		fn(r)
		select {
		case err := <-ended:
			t.Errorf("the loop has ended: %v", err)
		default:
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
}

// note keeps the proposals among what the member sends.
func (r *receiver) note(sent []*raftpb.Message) {
	for _, m := range sent {
		if m.GetType() == raftpb.MsgProp {
			r.proposed <- m.GetEntries()[0].GetData()
		}
	}
}

// makeUp makes the state of a message's snapshot, as pull would.
func (r *receiver) makeUp(ctx context.Context, _ *chainfirev1.InstallSnapshotRequest, msg *raftpb.Message) (uint64, error) {
	meta := msg.GetSnapshot().GetMetadata()
	if err := r.during(ctx, meta.GetIndex()); err != nil {
		return 0, err
	}
	num, err := r.nextState()
	if err != nil {
		return 0, err
	}
	st, err := store.Open(r.n.dir.State(num), store.Options{FS: r.n.cfg.FS})
	if err != nil {
		return 0, err
	}
	b := st.NewBatch()
	b.SetConfState(&entryv1.ConfState{Voters: meta.GetConfState().GetVoters()})
	err = b.Commit(ident.Position{Term: meta.GetTerm(), Index: meta.GetIndex()})
	return num, errors.Join(err, b.Close(), st.Flush(), st.Close())
}

// snapshot is a message of the other member's.
func (r *receiver) snapshot(term, index uint64) *raftpb.Message {
	voters := slices.Sorted(slices.Values([]uint64{r.other, r.identity.get().MemberID}))
	return &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(r.other), To: proto.Uint64(r.identity.get().MemberID),
		Term: proto.Uint64(term), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(index), Term: proto.Uint64(term), ConfState: &raftpb.ConfState{Voters: voters}}}}
}

// install begins one, whose end the channel tells.
func (r *receiver) install(term, index uint64) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- r.in.install(r.t.Context(), &chainfirev1.InstallSnapshotRequest{}, r.snapshot(term, index))
	}()
	return done
}

// hold stops the Ready loop until it is let go.
func (r *receiver) hold() (letGo func()) {
	held, gate := make(chan struct{}), make(chan struct{})
	r.core.post(func(*replica.Replica) error {
		close(held)
		<-gate
		return nil
	})
	<-held
	return func() { close(gate) }
}

// wants checks what is applied, and that no other state directory is left.
func (r *receiver) wants(index uint64) {
	r.t.Helper()
	if got := r.state.machine().Applied().Index; got != index {
		r.t.Errorf("applied %d, want %d", got, index)
	}
	if have, err := r.n.dir.States(); err != nil || !slices.Equal(have, []uint64{r.log.State()}) {
		r.t.Errorf("states %d, in use %d, %v", have, r.log.State(), err)
	}
}

// TestInstall: a snapshot is in use when its sender hears so; an older one is
// not fetched.
func TestInstall(t *testing.T) {
	inReceiver(t, func(r *receiver) {
		if err := <-r.install(2, 50); err != nil {
			t.Fatal(err)
		}
		r.wants(50)
		r.during = func(_ context.Context, index uint64) error {
			t.Errorf("the files of %d are fetched", index)
			return nil
		}
		for _, old := range []struct{ term, index uint64 }{{2, 50}, {2, 20}, {1, 90}} {
			if err := <-r.install(old.term, old.index); err != nil {
				t.Error(err)
			}
		}
		r.wants(50)
	})
}

// TestInstallSuperseded: while the files are fetched, and while the message
// waits for the loop, a later leader sends a snapshot.
func TestInstallSuperseded(t *testing.T) {
	t.Run("fetching", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			r.during = func(ctx context.Context, index uint64) error {
				if index == 50 {
					<-ctx.Done()
				}
				return context.Cause(ctx)
			}
			first := r.install(2, 50)
			synctest.Wait()
			if err := <-r.install(3, 60); err != nil {
				t.Error(err)
			}
			if err := <-first; !errors.Is(err, errSuperseded) {
				t.Errorf("the first ends with %v", err)
			}
			r.wants(60)
		})
	})
	t.Run("stepping", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			var letGo func()
			r.during = func(_ context.Context, index uint64) error {
				if index == 50 {
					letGo = r.hold()
				}
				return nil
			}
			first := r.install(2, 50)
			synctest.Wait() // its message is in the inbox
			second := r.install(3, 60)
			synctest.Wait()
			letGo()
			if err := <-second; err != nil {
				t.Error(err)
			}
			<-first // whatever it says: its sender no longer leads
			r.wants(60)
		})
	})
	t.Run("waiting", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			letGo := make(chan struct{})
			r.during = func(ctx context.Context, index uint64) error {
				switch index {
				case 50:
					<-letGo // it takes its time to end
				case 60:
					<-ctx.Done()
				}
				return context.Cause(ctx)
			}
			first := r.install(2, 50)
			synctest.Wait()
			second := r.install(3, 60)
			synctest.Wait()
			third := r.install(4, 70)
			synctest.Wait()
			close(letGo)
			if err := <-third; err != nil {
				t.Error(err)
			}
			if err := <-second; !errors.Is(err, errSuperseded) {
				t.Errorf("the second ends with %v", err)
			}
			<-first
			r.wants(70)
		})
	})
	t.Run("by the same term", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			fetched := make(chan struct{})
			r.during = func(_ context.Context, index uint64) error {
				if index == 50 {
					<-fetched
				}
				return nil
			}
			first := r.install(2, 50)
			synctest.Wait()
			second := r.install(2, 60) // a repetition must not end what is on its way
			synctest.Wait()
			close(fetched)
			if err := errors.Join(<-first, <-second); err != nil {
				t.Error(err)
			}
			r.wants(60)
		})
	})
}

// TestInstallWithoutFiles: a sender that has lost its files is told, and the
// next snapshot is installed.
func TestInstallWithoutFiles(t *testing.T) {
	inReceiver(t, func(r *receiver) {
		r.in.fetch = r.in.pull
		if err := <-r.install(2, 50); !fault.Is(err, fault.Unreachable) {
			t.Errorf("without a root: %v", err)
		}
		r.wants(2)
		r.in.fetch = r.makeUp
		r.during = func(context.Context, uint64) error { return fault.Newf(fault.LeaseLost, "pull", "gone") }
		if err := <-r.install(2, 60); !fault.Is(err, fault.LeaseLost) {
			t.Errorf("with files that go: %v", err)
		}
		r.wants(2)
		r.during = func(context.Context, uint64) error { return nil }
		if err := <-r.install(2, 70); err != nil {
			t.Error(err)
		}
		r.wants(70)
	})
}

// TestInstallCutOff: the sender goes away while its message waits for the loop.
// It is installed all the same, and the next install removes what it replaced.
func TestInstallCutOff(t *testing.T) {
	inReceiver(t, func(r *receiver) {
		ctx, cut := context.WithCancel(r.t.Context())
		var letGo func()
		r.during = func(_ context.Context, index uint64) error {
			if index == 50 {
				letGo = r.hold()
			}
			return nil
		}
		done := make(chan error, 1)
		go func() {
			done <- r.in.install(ctx, &chainfirev1.InstallSnapshotRequest{}, r.snapshot(2, 50))
		}()
		synctest.Wait()
		cut()
		synctest.Wait()
		letGo()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		for r.state.machine().Applied().Index != 50 {
			r.leader.wait(r.t.Context(), time.Second)
		}
		if err := <-r.install(2, 60); err != nil {
			t.Error(err)
		}
		r.wants(60)
	})
}
