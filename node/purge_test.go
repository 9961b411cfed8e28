package node

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

// compactedMachine makes a machine with four writes of one key, revisions 2 to 5,
// compacted up to 4.
func compactedMachine(t *testing.T, fs vfs.FS, dir string) *state.Machine {
	t.Helper()
	m := openTestMachine(t, fs, dir)
	apply := func(kind envelope.Kind, body proto.Message) {
		t.Helper()
		b, err := proto.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.Apply(state.Entry{Index: m.Applied().Index + 1, Term: 1, Data: envelope.Envelope{Kind: kind, Body: b}.Append(nil)})
		if err := errors.Join(err, res.Err); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		apply(envelope.Put, &pb.PutRequest{Key: []byte("k")})
	}
	apply(envelope.Compact, &pb.CompactionRequest{Revision: 4})
	return m
}

// TestPurgedIsOfOneState: that history was removed from one state says nothing of
// the one that a Raft snapshot brings.
func TestPurgedIsOfOneState(t *testing.T) {
	fs := vfs.NewMem()
	next := compactedMachine(t, fs, "state-2")
	c := &core{applies: newQueue[applyWork](), state: &stateBox{}, replacing: func(*state.Machine) {}, replaced: func() {}}
	c.state.set(compactedMachine(t, fs, "state-1"))
	defer func() {
		if err := c.state.close(); err != nil {
			t.Error(err)
		}
	}()
	c.fed(5)
	purge := func() {
		t.Helper()
		for c.purge.due(c.state.machine()) {
			if err := c.purge.step(c.state.machine()); err != nil {
				t.Fatal(err)
			}
		}
	}
	purged := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return c.waitPurged(ctx, 4)
	}
	if err := purged(); !fault.Is(err, fault.Timeout) {
		t.Errorf("nothing was removed: %v", err)
	}
	if purge(); purged() != nil {
		t.Errorf("all is removed: %v", purged())
	}
	if err := c.replaceState(func() (*state.Machine, error) { return next, nil }); err != nil {
		t.Fatal(err)
	}
	if err := purged(); !fault.Is(err, fault.Timeout) {
		t.Errorf("nothing was removed of the next state: %v", err)
	}
	if purge(); purged() != nil {
		t.Errorf("all of the next state is removed: %v", purged())
	}
}

// TestPurgeWaitsForWatches: history that synced watches have not been given is
// compacted, but stays on the disk.
func TestPurgeWaitsForWatches(t *testing.T) {
	m := compactedMachine(t, vfs.NewMem(), "state-1")
	defer func() {
		if err := m.Store().Close(); err != nil {
			t.Error(err)
		}
	}()
	kept := func(from int64) bool {
		t.Helper()
		_, err := m.History(t.Context(), mvcc.History{From: from, Kept: true,
			Want: func(int64, []byte) (mvcc.Want, error) { return mvcc.Nothing, nil }})
		return err == nil
	}
	c := &core{applies: newQueue[applyWork]()}
	step := func() {
		t.Helper()
		if err := c.purge.step(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, fed := range []int64{0, 1, 2} { // revision 3 is still needed
		c.fed(fed)
		step()
		if !kept(fed+1) && fed > 0 {
			t.Fatalf("fed up to %d: what comes next is gone", fed)
		}
	}
	c.fed(3)
	if n := len(c.applies.drain()); n != 3 {
		t.Errorf("the apply worker was woken %d times, want once after each purge that waited", n)
	}
	step()
	if kept(2) || kept(3) || !kept(4) {
		t.Errorf("fed up to 3: kept from 2 %t, 3 %t, 4 %t", kept(2), kept(3), kept(4))
	}
	versions := func() int {
		t.Helper()
		v := m.Store().View()
		older, err := v.Older(store.MVCC, []byte("k"), 6)
		if err = errors.Join(err, v.Close()); err != nil {
			t.Fatal(err)
		}
		return len(older)
	}
	step() // revision 4 is still needed, and what it replaced with it
	if n := versions(); n != 3 || c.purge.done == 4 {
		t.Errorf("fed up to 3: %d versions, done up to %d", n, c.purge.done)
	}
	c.fed(4)
	if n := len(c.applies.drain()); n != 1 {
		t.Errorf("the apply worker was woken %d times for what the compact revision replaced", n)
	}
	step()
	if n := versions(); n != 2 || c.purge.done != 4 || !kept(4) {
		t.Errorf("fed up to 4: %d versions, done up to %d", n, c.purge.done)
	}
	c.fed(5)
	if n := len(c.applies.drain()); n != 0 {
		t.Errorf("woken %d times with nothing to purge", n)
	}
}
