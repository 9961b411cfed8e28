package clusterapi

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// newcomer is a reservation that may be admitted with aTicket.
func newcomer() *entryv1.MemberRecord {
	return &entryv1.MemberRecord{Id: 5, State: isReserved, Name: "new", PeerUrls: []string{"http://new:1"}, DirectoryNonce: []byte("0123456789abcdef")}
}

func aTicket(b *backend) *chainfirev1.JoinTicket {
	return &chainfirev1.JoinTicket{ClusterId: b.cluster.GetClusterId(), GenesisNonce: b.cluster.GetGenesisNonce(), MemberId: 5,
		Position: &entryv1.Position{Term: 2, Index: 40}, ManifestRoot: make([]byte, 32), LeaseId: 9}
}

// TestAdmitRefusals is S6 as the leader checks it: each ticket that must not
// pass, with its class, and that nothing is proposed for it.
func TestAdmitRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b *backend, t *chainfirev1.JoinTicket)
		code   fault.Code
	}{
		{"good", func(*backend, *chainfirev1.JoinTicket) {}, ""},
		{"good, of a stopped member: no lease", func(_ *backend, t *chainfirev1.JoinTicket) { t.LeaseId = 0 }, ""},
		{"good, at the log's last entry", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position = &entryv1.Position{Term: 3, Index: 100} }, ""},
		{"good, just before the log's first", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position = &entryv1.Position{Term: 2, Index: 10} }, ""},
		{"another cluster", func(_ *backend, t *chainfirev1.JoinTicket) { t.ClusterId++ }, fault.Refused},
		{"another genesis", func(_ *backend, t *chainfirev1.JoinTicket) { t.GenesisNonce = make([]byte, 16) }, fault.Refused},
		{"no nonce at all", func(_ *backend, t *chainfirev1.JoinTicket) { t.GenesisNonce = []byte{1} }, fault.Usage},
		{"no cluster here yet", func(b *backend, _ *chainfirev1.JoinTicket) { b.cluster = nil }, fault.Unreachable},
		{"no reservation", func(_ *backend, t *chainfirev1.JoinTicket) { t.MemberId = 6 }, fault.Refused},
		{"removed", func(b *backend, _ *chainfirev1.JoinTicket) { b.members[1].State = isRemoved }, fault.Refused},
		{"no peer URL", func(b *backend, _ *chainfirev1.JoinTicket) { b.members[1].PeerUrls = nil }, fault.Refused},
		{"not bound", func(b *backend, _ *chainfirev1.JoinTicket) { b.members[1].DirectoryNonce = nil }, fault.Refused},
		{"no position", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position = nil }, fault.Usage},
		{"term 0", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position.Term = 0 }, fault.Usage},
		{"after the log's last", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position.Index = 101 }, fault.Refused},
		{"before the log's first", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position.Index = 9 }, fault.Reseed},
		{"another term", func(_ *backend, t *chainfirev1.JoinTicket) { t.Position.Term = 3 }, fault.Refused},
		{"lease ended", func(b *backend, _ *chainfirev1.JoinTicket) { b.leases = nil }, fault.LeaseLost},
		{"lease of another", func(_ *backend, t *chainfirev1.JoinTicket) { t.LeaseId = 8 }, fault.LeaseLost},
		{"the leader is not sure", func(b *backend, _ *chainfirev1.JoinTicket) {
			b.barrier = fault.Newf(fault.NotLeader, "read", "changed")
		}, fault.NotLeader},
		{"no leader", func(b *backend, _ *chainfirev1.JoinTicket) {
			b.noLeader = fault.Newf(fault.NotLeader, "forward", "none")
		}, fault.NotLeader},
	} {
		b := newBackend()
		b.members = append(b.members, newcomer())
		b.leases = []*entryv1.SeedLease{{Id: 9}}
		ticket := aTicket(b)
		c.change(b, ticket)
		res, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: ticket})
		code(t, c.name, err, c.code)
		if c.code != "" {
			if b.count() != 0 {
				t.Errorf("%s: %v was proposed", c.name, b.proposed)
			}
			continue
		}
		p := b.proposed[0]
		body, ok := p.body.(*entryv1.AddLearner)
		if !ok || p.conf == nil || *p.conf != (state.ConfChange{Type: state.AddLearner, NodeID: 5}) || body.GetLeaseId() != ticket.GetLeaseId() ||
			!proto.Equal(body.GetPosition(), ticket.GetPosition()) || len(body.GetManifestRoot()) != 32 {
			t.Errorf("%s: proposed %+v", c.name, p)
		}
		if res.GetAddedAt() != 101 || res.GetEntriesAfterAdd() != 101-ticket.GetPosition().GetIndex() {
			t.Errorf("%s: %v", c.name, res)
		}
	}
	if _, err := New(newBackend()).Admit(t.Context(), &chainfirev1.AdmitRequest{}); err == nil {
		t.Error("no ticket was accepted")
	}
}

// An admission that went through answers a second time, from the table.
func TestAdmitTwice(t *testing.T) {
	b := newBackend()
	rec := newcomer()
	rec.State, rec.AddedAt = isMember, 77
	b.members = append(b.members, rec)
	res, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: aTicket(b)})
	if err != nil || res.GetAddedAt() != 77 || res.GetEntriesAfterAdd() != 37 || b.count() != 0 {
		t.Errorf("%v, %v, %d proposals", res, err, b.count())
	}
}

// Of two calls with one ticket, whose entries are both in the log, the second is
// refused when it is applied; its caller hears what the first did.
func TestAdmitRaces(t *testing.T) {
	b := newBackend()
	b.members = append(b.members, newcomer())
	b.leases = []*entryv1.SeedLease{{Id: 9}}
	b.answer = func(b *backend, _ proposal) (state.Result, error) {
		b.change(5, func(m *entryv1.MemberRecord) { m.State, m.AddedAt = isMember, 99 })
		return state.Result{Index: 101}, fault.Newf(fault.Refused, "add learner", "a member already")
	}
	res, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: aTicket(b)})
	if err != nil || res.GetAddedAt() != 99 || b.count() != 1 {
		t.Errorf("%v, %v, %d proposals", res, err, b.count())
	}
	b = newBackend()
	b.members = append(b.members, newcomer())
	b.leases = []*entryv1.SeedLease{{Id: 9}}
	b.answer = func(*backend, proposal) (state.Result, error) {
		return state.Result{Index: 101}, fault.Newf(fault.LeaseLost, "add learner", "the lease has ended")
	}
	_, err = New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: aTicket(b)})
	code(t, "refused when applied", err, fault.LeaseLost)
}

// Admissions queue behind learners that have not caught up and behind pending
// changes; a call waits a while, then says that it is queued (S7).
func TestAdmitQueues(t *testing.T) {
	learner := &entryv1.MemberRecord{Id: 4, State: isMember, Learner: true, VoterIntent: true}
	for _, c := range []struct {
		name  string
		setup func(b *backend)
		free  func(b *backend)
	}{
		{"behind a learner", func(b *backend) { b.members = append(b.members, proto.CloneOf(learner)) },
			func(b *backend) { b.change(4, func(m *entryv1.MemberRecord) { m.Learner = false }) }},
		{"behind a change", func(b *backend) {
			b.answer = func(_ *backend, p proposal) (state.Result, error) {
				if p.conf == nil {
					return state.Result{}, nil
				}
				return state.Result{}, fault.New(fault.Refused, "add learner", ErrChangePending)
			}
		}, func(b *backend) { b.mu.Lock(); b.answer = nil; b.mu.Unlock() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.members = append(b.members, newcomer())
				b.leases = []*entryv1.SeedLease{{Id: 9}}
				c.setup(b)
				req := &chainfirev1.AdmitRequest{Ticket: aTicket(b)}
				began := time.Now()
				_, err := New(b).Admit(t.Context(), req)
				code(t, "queued", err, fault.InUse)
				if took := time.Since(began); took < queuePatience || took > 2*queuePatience {
					t.Errorf("told after %s", took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := New(b).Admit(ctx, req); err == nil || ctx.Err() == nil {
					t.Errorf("a caller that went away: %v", err)
				}
				time.AfterFunc(time.Second, func() { c.free(b) })
				if _, err := New(b).Admit(t.Context(), req); err != nil {
					t.Errorf("its turn: %v", err)
				}
			})
		})
	}
}

// A newcomer that waits its turn for longer than a reservation lives without a
// sign of life gives one, whether or not a lease stands for it; not at every
// call, which would fill the log.
func TestQueuedNewcomerKeepsItsReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		b.members = append(b.members, newcomer(), &entryv1.MemberRecord{Id: 4, State: isMember, Learner: true})
		ticket := aTicket(b)
		ticket.LeaseId = 0 // a stopped member's seed
		s := New(b)
		began := time.Now()
		for time.Since(began) < 10*touchEvery {
			_, err := s.Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: ticket})
			code(t, "queued", err, fault.InUse)
		}
		if n := len(b.proposed); n < 9 || n > 11 {
			t.Errorf("%d signs of life in ten minutes", n)
		}
		for _, p := range b.proposed {
			if !proto.Equal(p.body, &entryv1.TouchReservation{Id: ticket.GetMemberId()}) {
				t.Errorf("proposed %+v", p)
			}
		}
		gone := fault.Newf(fault.Refused, "touch reservation", "removed")
		b.answer = func(*backend, proposal) (state.Result, error) { return state.Result{}, gone }
		_, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: ticket})
		code(t, "removed meanwhile", err, fault.Refused)
	})
}

// A learner that stays one takes nobody's place, nor waits for one.
func TestAdmitStayLearner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		rec := newcomer()
		b.members = append(b.members, rec, &entryv1.MemberRecord{Id: 4, State: isMember, Learner: true, StayLearner: true})
		b.leases = []*entryv1.SeedLease{{Id: 9}}
		if _, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: aTicket(b)}); err != nil {
			t.Errorf("behind one that stays: %v", err)
		}
		b.members[2].StayLearner, rec.StayLearner = false, true
		if _, err := New(b).Admit(t.Context(), &chainfirev1.AdmitRequest{Ticket: aTicket(b)}); err != nil {
			t.Errorf("one that stays: %v", err)
		}
	})
}

func TestReserveAndBind(t *testing.T) {
	b := newBackend()
	s := New(b)
	res, err := s.Reserve(t.Context(), &chainfirev1.ReserveRequest{Name: "n", PeerUrls: []string{"u"}, StayLearner: true, DirectoryNonce: []byte("d")})
	if err != nil || res.GetMemberId() != 5 || res.GetClusterId() != 0xc1 || res.GetAlreadyMember() || len(res.GetMembers()) != 1 {
		t.Errorf("%v, %v", res, err)
	}
	want := &entryv1.ReserveMember{Name: "n", PeerUrls: []string{"u"}, StayLearner: true, DirectoryNonce: []byte("d")}
	if p := b.proposed[0]; p.kind != envelope.ReserveMember || !proto.Equal(p.body, want) {
		t.Errorf("%+v", p)
	}
	b.answer = func(*backend, proposal) (state.Result, error) {
		return state.Result{Response: &entryv1.MemberRecord{Id: 1, State: isMember}}, nil
	}
	if res, err = s.Reserve(t.Context(), &chainfirev1.ReserveRequest{Name: "one"}); err != nil || !res.GetAlreadyMember() {
		t.Errorf("%v, %v", res, err)
	}
	b.answer = func(*backend, proposal) (state.Result, error) { return state.Result{}, nil }
	_, err = s.Reserve(t.Context(), &chainfirev1.ReserveRequest{})
	code(t, "no record", err, fault.Internal)
	bind := &chainfirev1.BindRequest{ClusterId: 0xc1, GenesisNonce: b.cluster.GetGenesisNonce(), MemberId: 5, DirectoryNonce: []byte("d")}
	if _, err := s.Bind(t.Context(), bind); err != nil {
		t.Error(err)
	}
	if p := b.proposed[len(b.proposed)-1]; !proto.Equal(p.body, &entryv1.BindMember{Id: 5, DirectoryNonce: []byte("d")}) {
		t.Errorf("%+v", p)
	}
	before := b.count()
	bind.ClusterId++
	_, err = s.Bind(t.Context(), bind)
	code(t, "bind in another cluster", err, fault.Refused)
	b.cluster = nil
	_, err = s.Reserve(t.Context(), &chainfirev1.ReserveRequest{})
	code(t, "reserve in no cluster", err, fault.Unreachable)
	if b.count() != before {
		t.Error("something was proposed for another cluster")
	}
}

func TestJoinStatus(t *testing.T) {
	b := newBackend()
	b.members = append(b.members, newcomer())
	b.raft.Progress = map[uint64]Progress{5: {Match: 60, State: "replicate", SinceContact: 2 * time.Second}}
	s := New(b)
	st, err := s.JoinStatus(t.Context(), &chainfirev1.JoinStatusRequest{MemberId: 5})
	if err != nil || st.GetMatch() != 60 || st.GetLastIndex() != 100 || st.GetProgressState() != "replicate" ||
		st.GetSecondsSinceContact() != 2 || st.EntriesSent != nil || st.RaftSnapshotsSent != nil || st.GetMember().GetState() != "reserved" {
		t.Errorf("%v, %v", st, err)
	}
	b.raft.Progress = nil
	if st, err = s.JoinStatus(t.Context(), &chainfirev1.JoinStatusRequest{MemberId: 5}); err != nil || st.GetProgressState() != "none" || st.GetSecondsSinceContact() >= 0 {
		t.Errorf("not followed: %v, %v", st, err)
	}
	_, err = s.JoinStatus(t.Context(), &chainfirev1.JoinStatusRequest{MemberId: 6})
	code(t, "unknown", err, fault.Usage)
	if b.barriers != 1 {
		t.Errorf("%d barriers before saying that a member is not known", b.barriers)
	}
}

// Two members that each take the other for the leader hand a call on once.
func TestForwardingNeverCircles(t *testing.T) {
	a, b := newBackend(), newBackend()
	dialA := serve(t, New(a).Register)
	dialB := serve(t, New(b).Register)
	a.leader, b.leader = dialB(), dialA()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn := dialA()
	for what, call := range map[string]func() error{
		"admit": func() error {
			_, err := chainfirev1.NewAdmissionClient(conn).Admit(ctx, &chainfirev1.AdmitRequest{})
			return err
		},
		"join status": func() error {
			_, err := chainfirev1.NewAdmissionClient(conn).JoinStatus(ctx, &chainfirev1.JoinStatusRequest{})
			return err
		},
		"remove": func() error {
			_, err := chainfirev1.NewClusterClient(conn).MemberRemove(ctx, &chainfirev1.MemberRemoveRequest{})
			return err
		},
		"promote": func() error {
			_, err := chainfirev1.NewClusterClient(conn).MemberPromote(ctx, &chainfirev1.MemberPromoteRequest{})
			return err
		},
		"status": func() error {
			_, err := chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{})
			return err
		},
	} {
		if err := call(); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "no longer the leader") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a.count()+b.count() != 0 {
		t.Error("something was proposed")
	}
	a.leader = nil // the control: once one of them leads, the other's call arrives
	if _, err := chainfirev1.NewClusterClient(dialB()).Status(ctx, &chainfirev1.StatusRequest{}); err != nil {
		t.Error(err)
	}
}

// The leader serves a call that came by another member like any other.
func TestForwardedCallIsServed(t *testing.T) {
	b := newBackend()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(forwardedKey, "1"))
	remote := func(context.Context, grpc.ClientConnInterface) (int, error) { t.Error("handed on"); return 0, nil }
	got, err := atLeader(ctx, b, func(context.Context) (int, error) { return 7, nil }, remote)
	if got != 7 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}
