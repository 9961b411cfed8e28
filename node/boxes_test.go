package node

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/raftloop"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

func TestLeaderWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeaderWatch()
		if l.current() != 0 || l.term() != 0 {
			t.Error("a leader before the first")
		}
		began := time.Now()
		l.wait(t.Context(), time.Minute)
		if time.Since(began) != time.Minute {
			t.Errorf("waited %s without a change", time.Since(began))
		}
		began = time.Now()
		time.AfterFunc(time.Second, func() { l.set(raftloop.Role{Leader: 7, Term: 3}) })
		l.wait(t.Context(), time.Minute)
		if time.Since(began) != time.Second || l.current() != 7 || l.term() != 3 {
			t.Errorf("after %s: leader %d, term %d", time.Since(began), l.current(), l.term())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		l.wait(ctx, time.Minute)
		if time.Since(began) != time.Second {
			t.Errorf("the context's end was noticed after %s", time.Since(began))
		}
	})
}

func TestConns(t *testing.T) {
	dials := map[string]int{}
	refuse := errors.New("no")
	c := &conns{dial: func(_ context.Context, url string) (*grpc.ClientConn, error) {
		dials[url]++
		if url == "bad" {
			return nil, refuse
		}
		return grpc.NewClient("passthrough:///"+url, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}}
	a, err := c.get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.get(t.Context(), "a"); err != nil || again != a || dials["a"] != 1 {
		t.Errorf("%d dials, %v", dials["a"], err)
	}
	for range 2 { // a failure is not remembered
		if _, err := c.get(t.Context(), "bad"); !errors.Is(err, refuse) {
			t.Errorf("%v", err)
		}
	}
	if dials["bad"] != 2 {
		t.Errorf("%d dials", dials["bad"])
	}
	c.close()
	if _, err := c.get(t.Context(), "a"); err == nil {
		t.Error("a connection after close, which nobody would close")
	}
}

// openTestMachine makes an empty machine in dir of fs.
func openTestMachine(t *testing.T, fs vfs.FS, dir string) *state.Machine {
	t.Helper()
	st, err := store.Open(dir, store.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	m, err := state.Open(st)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A replaced machine stays open for who reads it, and nobody else waits: the
// next reader and the Ready loop have the new one at once.
func TestStateBoxReplace(t *testing.T) {
	fs := vfs.NewMem()
	first, second := openTestMachine(t, fs, "state-1"), openTestMachine(t, fs, "state-2")
	b := &stateBox{}
	if err := b.read(func(*state.Machine) error { return nil }); err == nil {
		t.Error("an empty box can be read")
	}
	b.set(first)
	reading, finish, read, replaced := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		read <- b.read(func(m *state.Machine) error {
			close(reading)
			<-finish
			_, err := m.Store().DurablePosition() // of a closed store this would panic
			return err
		})
	}()
	<-reading
	go func() { replaced <- b.replace(func() (*state.Machine, error) { return second, nil }) }()
	for b.machine() != second {
		if err := b.read(func(*state.Machine) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-replaced:
		t.Fatalf("closed under a reader: %v", err)
	default:
	}
	close(finish)
	if err := errors.Join(<-read, <-replaced); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := b.replace(func() (*state.Machine, error) { return nil, broken }); !errors.Is(err, broken) || b.machine() != second {
		t.Errorf("%v", err)
	}
	if err := errors.Join(b.close(), b.close()); err != nil {
		t.Error(err)
	}
	if b.read(func(*state.Machine) error { return nil }) == nil || b.machine().Revision() != second.Revision() {
		t.Error("a closed box is read, or has lost its cached copies")
	}
}

// Who keeps something of the state hears that it is replaced before anybody sees the
// next one.
func TestReplacingComesBeforeSeeing(t *testing.T) {
	fs := vfs.NewMem()
	first, second := openTestMachine(t, fs, "state-1"), openTestMachine(t, fs, "state-2")
	c := &core{state: &stateBox{}}
	c.state.set(first)
	heard := ""
	c.replacing = func(next *state.Machine) {
		if heard += "replacing "; next != second || c.state.machine() != first {
			t.Error("the next state is seen already")
		}
	}
	c.replaced = func() {
		if heard += "replaced"; c.state.machine() != second {
			t.Error("the next state is not seen yet")
		}
	}
	broken := errors.New("broken")
	if err := c.replaceState(func() (*state.Machine, error) { return nil, broken }); !errors.Is(err, broken) || heard != "" {
		t.Errorf("%v, heard %q", err, heard)
	}
	err := c.replaceState(func() (*state.Machine, error) { return second, nil })
	if err := errors.Join(err, c.state.close()); err != nil || heard != "replacing replaced" {
		t.Errorf("%v, heard %q", err, heard)
	}
}

func TestIdentityBox(t *testing.T) {
	fs := vfs.NewMem()
	dir := datadir.At(fs, "data")
	if err := dir.Begin(); err != nil {
		t.Fatal(err)
	}
	b := &identityBox{dir: dir, id: datadir.Identity{MemberID: 5, Seed: &datadir.SeedRef{LeaseID: 9}}}
	before := b.get()
	if err := b.update(func(id *datadir.Identity) { id.Seed.Joined = true }); err != nil {
		t.Fatal(err)
	}
	if before.Seed.Joined {
		t.Error("a copy that was given out has changed")
	}
	onDisk, err := dir.ReadIdentity()
	if err != nil || !onDisk.Seed.Joined || !b.get().Seed.Joined {
		t.Errorf("%+v, %v", onDisk, err)
	}
	for _, n := range []ident.Nonce{{}, {1}, {2}} { // the first that is known stays
		if err := b.learnGenesis(n); err != nil {
			t.Fatal(err)
		}
	}
	if onDisk, err = dir.ReadIdentity(); err != nil || onDisk.Cluster.Genesis != (ident.Nonce{1}) {
		t.Errorf("genesis %s, %v", onDisk.Cluster.Genesis, err)
	}
}

// What could not be written is not believed.
func TestIdentityBoxUnwritten(t *testing.T) {
	b := &identityBox{dir: datadir.At(vfs.NewMem(), "absent"), id: datadir.Identity{MemberID: 5}}
	if err := b.update(func(id *datadir.Identity) { id.MemberID = 6 }); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	if b.get().MemberID != 5 {
		t.Error("the copy in memory has changed")
	}
}

// A member that is known where it does not listen, and has not said better, is
// warned about.
func TestElsewhere(t *testing.T) {
	here, there := []string{"http://10.0.0.1:2380"}, []string{"http://10.0.0.1:4000"}
	for _, c := range []struct {
		known, told, listens []string
		want                 bool
	}{
		{there, nil, here, true},
		{there, nil, []string{"http://10.0.0.2:2380", "http://10.0.0.3:2380"}, true},
		{here, nil, here, false},
		{there, here, here, false},
		{there, nil, []string{"http://0.0.0.0:2380"}, false},
		{there, nil, []string{"http://[::]:2380"}, false},
		{nil, nil, here, false},
	} {
		if got := elsewhere(c.known, c.told, c.listens); got != c.want {
			t.Errorf("known at %v, told %v, listens on %v: %t", c.known, c.told, c.listens, got)
		}
	}
}

func TestPublished(t *testing.T) {
	rec := &entryv1.MemberRecord{Name: "n", PeerUrls: []string{"p"}, ClientUrls: []string{"c"}}
	for _, c := range []struct {
		own  *entryv1.PublishMember
		want bool
	}{
		{&entryv1.PublishMember{}, true},
		{&entryv1.PublishMember{Name: "n", PeerUrls: []string{"p"}, ClientUrls: []string{"c"}}, true},
		{&entryv1.PublishMember{Name: "m", PeerUrls: []string{"p"}, ClientUrls: []string{"c"}}, false},
		{&entryv1.PublishMember{Name: "n", PeerUrls: []string{"q"}, ClientUrls: []string{"c"}}, false},
		{&entryv1.PublishMember{Name: "n", ClientUrls: []string{"d"}}, false},
	} {
		if got := published(rec, c.own); got != c.want {
			t.Errorf("%v: %t", c.own, got)
		}
	}
}

// What a peer says of itself counts until the table has something newer.
func TestNewestURLsWin(t *testing.T) {
	m := newMembership()
	rec := &entryv1.MemberRecord{Id: 1, PeerUrls: []string{"table"}, UrlsVersion: 3}
	if got := m.urlsOf(rec); got[0] != "table" {
		t.Errorf("%v", got)
	}
	m.heard[1] = heardURLs{urls: []string{"heard"}, version: 3}
	if got := m.urlsOf(rec); got[0] != "heard" {
		t.Errorf("%v", got)
	}
	rec.UrlsVersion = 4
	if got := m.urlsOf(rec); got[0] != "table" {
		t.Errorf("%v", got)
	}
}

func TestSole(t *testing.T) {
	early := &earlyError{fault.Newf(fault.Reseed, "admit", "old")}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{early, true}, {errors.Join(early), true}, {errors.Join(errors.Join(early), nil), true},
		{errors.Join(early, errors.New("close")), false}, {nil, false}, {errors.New("x"), false},
	} {
		if got, ok := sole(c.err).(*earlyError); ok != c.want || (ok && got != early) {
			t.Errorf("%v: %t", c.err, ok)
		}
	}
}
