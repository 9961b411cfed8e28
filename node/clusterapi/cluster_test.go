package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	records "github.com/chainfire/cfseed/internal/state/member"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// waiting is a node that waits for a seed.
type waiting struct {
	chainfirev1.UnimplementedAwaitServer
	name, state string
	refuse      error
	events      []*chainfirev1.MemberAddResponse
	fail        error
	nonce       []byte
	asked       *chainfirev1.JoinRequest
}

func (w *waiting) Probe(context.Context, *chainfirev1.ProbeRequest) (*chainfirev1.ProbeResponse, error) {
	if w.refuse != nil {
		return nil, rpcfault.ToStatus(w.refuse)
	}
	return &chainfirev1.ProbeResponse{Name: w.name, State: w.state, DirectoryNonce: w.nonce}, nil
}

func (w *waiting) Join(req *chainfirev1.JoinRequest, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	w.asked = req
	for _, ev := range w.events {
		if err := out.Send(ev); err != nil {
			return err
		}
	}
	return rpcfault.ToStatus(w.fail)
}

func phase(name string) *chainfirev1.MemberAddResponse {
	return &chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Phase{Phase: &chainfirev1.PhaseStarted{Name: name}}}
}

func told(r *results) string {
	var out []string
	for _, m := range r.got {
		if p := m.GetPhase().GetName(); p != "" {
			out = append(out, p)
		} else if m.GetTransfer() != nil {
			out = append(out, "transfer")
		} else {
			out = append(out, "result")
		}
	}
	return strings.Join(out, " ")
}

// add runs MemberAdd against w, or against nobody.
func add(t *testing.T, w *waiting, b *backend, req *chainfirev1.MemberAddRequest) (*results, error) {
	t.Helper()
	b.dial = func(context.Context, string) (*grpc.ClientConn, error) {
		return nil, fault.Newf(fault.Unreachable, "dial", "connection refused")
	}
	if w != nil {
		dial := serve(t, func(r grpc.ServiceRegistrar) { chainfirev1.RegisterAwaitServer(r, w) })
		b.dial = func(_ context.Context, url string) (*grpc.ClientConn, error) {
			if url != "http://new:1" {
				return nil, fault.Newf(fault.Unreachable, "dial", "%s", url)
			}
			return dial(), nil
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out := &results{ctx: ctx}
	return out, New(b).MemberAdd(req, out)
}

func TestMemberAdd(t *testing.T) {
	result := &chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: &chainfirev1.MemberAddResult{MemberId: 5,
		Role: "voter", Phases: []*chainfirev1.Phase{{Name: "reserve"}, {Name: "seed"}, {Name: "verify"}}}}}
	moved := &chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{Transfer: &chainfirev1.TransferProgress{}}}
	w := &waiting{name: "new", state: "waiting", nonce: []byte("nonce"), events: []*chainfirev1.MemberAddResponse{
		phase("reserve"), phase("seed"), moved, phase("verify"), result}}
	b := newBackend()
	b.members = append(b.members, &entryv1.MemberRecord{Id: 2, State: isMember, PeerUrls: []string{"http://two"}},
		&entryv1.MemberRecord{Id: 3, State: isMember, Learner: true, PeerUrls: []string{"http://three"}},
		&entryv1.MemberRecord{Id: 4, State: isReserved, PeerUrls: []string{"http://four"}})
	b.self = 2
	out, err := add(t, w, b, &chainfirev1.MemberAddRequest{PeerUrls: []string{"http://nobody:1", "http://new:1"}, Learner: true,
		JoinToken: "t", RateLimit: 9, Compression: "zstd", Parallel: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got := told(out); got != "reserve seed transfer verify result" {
		t.Errorf("told %s", got)
	}
	var names []string
	for _, p := range out.result().GetPhases() {
		names = append(names, p.GetName())
	}
	if got := strings.Join(names, " "); got != "reserve seed verify" {
		t.Errorf("phases %s", got)
	}
	want := &entryv1.ReserveMember{Name: "new", PeerUrls: []string{"http://nobody:1", "http://new:1"}, StayLearner: true, DirectoryNonce: []byte("nonce")}
	if len(b.proposed) != 1 || !proto.Equal(b.proposed[0].body, want) {
		t.Errorf("proposed %+v", b.proposed)
	}
	// This member is asked first; learners and reservations are no source to begin with.
	if got := fmt.Sprint(w.asked.GetEndpoints()); got != "[http://two http://one]" {
		t.Errorf("endpoints %s", got)
	}
	if a := w.asked; a.GetMemberId() != 5 || a.GetClusterId() != 0xc1 || !a.GetLearner() || a.GetJoinToken() != "t" || a.GetRateLimit() != 9 ||
		a.GetCompression() != "zstd" || a.GetParallel() != 3 || len(a.GetPeerUrls()) != 2 {
		t.Errorf("invited with %v", a)
	}
}

// TestMemberAddChangesNothing: in each of these cases nothing is proposed.
func TestMemberAddChangesNothing(t *testing.T) {
	at := []string{"http://new:1"}
	for _, c := range []struct {
		name   string
		w      *waiting
		req    *chainfirev1.MemberAddRequest
		change func(*backend)
		code   fault.Code
		hint   string
	}{
		{"no URL", &waiting{}, &chainfirev1.MemberAddRequest{Name: "new"}, nil, fault.Usage, "--peer-urls"},
		{"nobody there", nil, &chainfirev1.MemberAddRequest{Name: "new", PeerUrls: at}, nil, fault.Unreachable,
			"cfseed node --name new --await-seed --cluster-id 00000000000000c1"},
		{"nobody there, no name", nil, &chainfirev1.MemberAddRequest{PeerUrls: at}, nil, fault.Unreachable, "--name NAME"},
		{"another name", &waiting{name: "old"}, &chainfirev1.MemberAddRequest{Name: "new", PeerUrls: at}, nil, fault.Refused, "member add old"},
		{"wrong token", &waiting{refuse: fault.Newf(fault.Permission, "probe", "no")}, &chainfirev1.MemberAddRequest{PeerUrls: at}, nil, fault.Permission, ""},
		{"waits for another cluster", &waiting{refuse: fault.Newf(fault.Refused, "probe", "no")}, &chainfirev1.MemberAddRequest{PeerUrls: at}, nil, fault.Refused, ""},
		{"a member of another cluster", &waiting{name: "new", state: "member", nonce: []byte("other")}, &chainfirev1.MemberAddRequest{PeerUrls: at}, nil, fault.Refused, "--await-seed"},
		{"a member without a nonce", &waiting{name: "new", state: "member"}, &chainfirev1.MemberAddRequest{PeerUrls: at}, nil, fault.Refused, ""},
		{"no cluster yet", &waiting{}, &chainfirev1.MemberAddRequest{PeerUrls: at}, func(b *backend) { b.cluster = nil }, fault.Unreachable, ""},
	} {
		b := newBackend()
		if c.change != nil {
			c.change(b)
		}
		_, err := add(t, c.w, b, c.req)
		code(t, c.name, err, c.code)
		if !strings.Contains(fault.HintOf(err), c.hint) {
			t.Errorf("%s: hint %q", c.name, fault.HintOf(err))
		}
		if b.count() != 0 {
			t.Errorf("%s: %v was proposed", c.name, b.proposed)
		}
	}
}

// An add of what is a member by now tells what became of it.
func TestMemberAddOfMember(t *testing.T) {
	b := newBackend()
	b.members[0].DirectoryNonce = []byte("nonce")
	out, err := add(t, &waiting{name: "one", state: "member", nonce: []byte("nonce")}, b, &chainfirev1.MemberAddRequest{Name: "one", PeerUrls: []string{"http://new:1"}})
	if err != nil || out.result().GetMemberId() != 1 || out.result().GetRole() != "voter" || !out.result().GetAlreadyMember() || b.count() != 0 {
		t.Errorf("%v, %v", out.got, err)
	}
	if r := out.result(); r.BytesWire != nil || r.BytesReused != nil || r.BytesTotal != nil || r.EntriesAfterAdd != nil || r.RaftSnapshotsSent != nil {
		t.Errorf("counts of a join that nobody here saw: %v", r)
	}
}

func TestMemberAddFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		w    *waiting
		code fault.Code
	}{
		{"the newcomer fails", &waiting{fail: fault.Newf(fault.NoSpace, "seed", "full")}, fault.NoSpace},
		{"an end without a result", &waiting{}, fault.Internal},
		{"after some progress", &waiting{events: []*chainfirev1.MemberAddResponse{phase("seed")}, fail: fault.Newf(fault.Timeout, "seed", "slow")}, fault.Timeout},
	} {
		b := newBackend()
		_, err := add(t, c.w, b, &chainfirev1.MemberAddRequest{PeerUrls: []string{"http://new:1"}})
		code(t, c.name, err, c.code)
		if b.count() != 1 { // the reservation, for the next try
			t.Errorf("%s: %d proposals", c.name, b.count())
		}
	}
	b := newBackend()
	b.answer = func(*backend, proposal) (state.Result, error) {
		return state.Result{}, fault.Newf(fault.Refused, "reserve", "the name is taken")
	}
	w := &waiting{}
	_, err := add(t, w, b, &chainfirev1.MemberAddRequest{PeerUrls: []string{"http://new:1"}})
	code(t, "no reservation", err, fault.Refused)
	if w.asked != nil {
		t.Error("invited without a reservation")
	}
}

// --no-seed reserves and contacts nobody.
func TestMemberAddNoSeed(t *testing.T) {
	b := newBackend()
	out, err := add(t, nil, b, &chainfirev1.MemberAddRequest{Name: "n", PeerUrls: []string{"http://new:1"}, NoSeed: true, Learner: true})
	if err != nil || out.result().GetMemberId() != 5 || out.result().GetRole() != "learner" || b.count() != 1 {
		t.Errorf("%v, %v", out.got, err)
	}
	// No byte was moved; what the join will take is not known yet.
	if r := out.result(); r.BytesWire == nil || r.BytesReused == nil || r.GetBytesWire() != 0 || r.GetAlreadyMember() ||
		r.BytesTotal != nil || r.EntriesAfterAdd != nil || r.RaftSnapshotsSent != nil {
		t.Errorf("%v", r)
	}
}

func TestRemovePromoteUpdate(t *testing.T) {
	const unknown, gone, waits, learner = 9, 8, 7, 6
	fill := func() *backend {
		b := newBackend()
		b.members = append(b.members, &entryv1.MemberRecord{Id: learner, State: isMember, Learner: true},
			&entryv1.MemberRecord{Id: waits, State: isReserved}, &entryv1.MemberRecord{Id: gone, State: isRemoved})
		return b
	}
	notReady := fault.Newf(fault.Refused, "promote", "behind")
	for _, c := range []struct {
		name   string
		call   func(context.Context, *Service) error
		change func(*backend)
		code   fault.Code
		want   proposal // nothing proposed when the kind is 0
	}{
		{"remove", func(ctx context.Context, s *Service) error { return s.RemoveMember(ctx, 1) }, nil, "",
			proposal{envelope.RemoveMember, &state.ConfChange{Type: state.RemoveNode, NodeID: 1}, &entryv1.RemoveMember{Id: 1}}},
		{"end a reservation", func(ctx context.Context, s *Service) error { return s.RemoveMember(ctx, waits) }, nil, "",
			proposal{envelope.CancelReservation, nil, &entryv1.CancelReservation{Id: waits, Force: true}}},
		{"remove twice", func(ctx context.Context, s *Service) error { return s.RemoveMember(ctx, gone) }, nil, fault.Usage, proposal{}},
		{"remove nobody", func(ctx context.Context, s *Service) error { return s.RemoveMember(ctx, unknown) }, nil, fault.Usage, proposal{}},
		{"promote", func(ctx context.Context, s *Service) error { return s.PromoteMember(ctx, learner) }, nil, "",
			proposal{envelope.PromoteMember, &state.ConfChange{Type: state.AddVoter, NodeID: learner}, &entryv1.PromoteMember{Id: learner}}},
		{"promote one that is behind", func(ctx context.Context, s *Service) error { return s.PromoteMember(ctx, learner) },
			func(b *backend) { b.promotable = notReady }, fault.Refused, proposal{}},
		{"promote nobody", func(ctx context.Context, s *Service) error { return s.PromoteMember(ctx, unknown) }, nil, fault.Usage, proposal{}},
		{"update", func(ctx context.Context, s *Service) error { return s.UpdateMember(ctx, 1, []string{"http://u:1"}) }, nil, "",
			proposal{envelope.UpdateMember, nil, &entryv1.UpdateMember{Id: 1, PeerUrls: []string{"http://u:1"}}}},
		{"update to nowhere", func(ctx context.Context, s *Service) error { return s.UpdateMember(ctx, 1, []string{"http://u"}) }, nil, fault.Usage, proposal{}},
		{"update nobody", func(ctx context.Context, s *Service) error { return s.UpdateMember(ctx, unknown, nil) }, nil, fault.Usage, proposal{}},
		{"no leader", func(ctx context.Context, s *Service) error { return s.RemoveMember(ctx, 1) },
			func(b *backend) { b.noLeader = fault.Newf(fault.NotLeader, "forward", "none") }, fault.NotLeader, proposal{}},
		{"not sure", func(ctx context.Context, s *Service) error { return s.UpdateMember(ctx, 1, nil) },
			func(b *backend) { b.barrier = fault.Newf(fault.Timeout, "read", "slow") }, fault.Timeout, proposal{}},
	} {
		b := fill()
		if c.change != nil {
			c.change(b)
		}
		err := c.call(t.Context(), New(b))
		code(t, c.name, err, c.code)
		if c.code == fault.Usage && c.name != "update to nowhere" && !errors.Is(err, records.ErrNotFound) {
			t.Errorf("%s: %v does not say that nobody is there", c.name, err)
		}
		switch {
		case c.want.kind == 0:
			if b.count() != 0 {
				t.Errorf("%s: %v was proposed", c.name, b.proposed)
			}
		case b.count() != 1 || b.proposed[0].kind != c.want.kind || !proto.Equal(b.proposed[0].body, c.want.body) ||
			(c.want.conf == nil) != (b.proposed[0].conf == nil) || c.want.conf != nil && *c.want.conf != *b.proposed[0].conf:
			t.Errorf("%s: proposed %+v", c.name, b.proposed)
		}
	}
}

// A promotion waits for a learner that has just caught up: not for one that is
// behind, not for ever, and not past the time of its caller.
func TestPromoteWaitsForAMoment(t *testing.T) {
	const learner = 6
	for _, c := range []struct {
		name     string
		soon     bool
		ready    time.Duration // 0 = never
		deadline time.Duration // 0 = none
		code     fault.Code
		took     time.Duration
	}{
		{"behind", false, 0, 0, fault.Refused, 0},
		{"just caught up", true, 300 * time.Millisecond, 0, "", 300 * time.Millisecond},
		{"never for long enough", true, 0, 0, fault.Refused, settlePatience},
		{"a caller with little time", true, 0, 2 * time.Second, fault.Refused, 2*time.Second - settleMargin},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				b.members = append(b.members, &entryv1.MemberRecord{Id: learner, State: isMember, Learner: true})
				b.soon, b.promotable = c.soon, fault.Newf(fault.Refused, "promote", "not yet")
				if c.ready > 0 {
					time.AfterFunc(c.ready, func() { b.mu.Lock(); defer b.mu.Unlock(); b.soon, b.promotable = false, nil })
				}
				ctx := t.Context()
				if c.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				began := time.Now()
				code(t, "promote", New(b).PromoteMember(ctx, learner), c.code)
				if took := time.Since(began); took < c.took || took > c.took+2*queuePause {
					t.Errorf("took %s, want %s", took, c.took)
				}
			})
		})
	}
}

// A voter is not taken away where the others would have no quorum then.
func TestRemoveLeavesAQuorum(t *testing.T) {
	const learner, reservation, removed = 6, 7, 8
	for _, c := range []struct {
		name   string
		voters int    // 1 is this one, the leader
		away   uint64 // the highest voters that are not in contact
		remove uint64
		ok     bool
	}{
		{"all there", 3, 0, 2, true},
		{"itself", 3, 0, 1, true},
		{"the one that is away", 3, 1, 3, true},
		{"one of two that are there", 3, 1, 2, false},
		{"itself while one is away", 3, 1, 1, false},
		{"the other of two", 2, 0, 2, true},
		{"itself of two", 2, 0, 1, true},
		{"one of four", 4, 1, 2, true},
		{"one of five", 5, 2, 2, false},
		{"a learner", 3, 1, learner, true},
		{"a reservation", 3, 1, reservation, true},
		{"the last: refused where it is applied", 1, 0, 1, true},
	} {
		b := newBackend()
		b.raft = Raft{Leader: 1, Progress: map[uint64]Progress{learner: {RecentActive: true}}}
		for id := uint64(2); id <= uint64(c.voters); id++ {
			b.members = append(b.members, &entryv1.MemberRecord{Id: id, State: isMember})
			b.raft.Progress[id] = Progress{RecentActive: id <= uint64(c.voters)-c.away}
		}
		b.members = append(b.members, &entryv1.MemberRecord{Id: learner, State: isMember, Learner: true},
			&entryv1.MemberRecord{Id: reservation, State: isReserved}, &entryv1.MemberRecord{Id: removed, State: isRemoved})
		err := New(b).RemoveMember(t.Context(), c.remove)
		if c.ok != (err == nil) || c.ok != (b.count() == 1) {
			t.Errorf("%s: %v, %d proposals", c.name, err, b.count())
		}
		if !c.ok {
			code(t, c.name, err, fault.Refused)
		}
	}
}

// leading answers for a leader.
type leading struct {
	chainfirev1.UnimplementedClusterServer
	err error
}

func (l leading) MemberPromote(context.Context, *chainfirev1.MemberPromoteRequest) (*chainfirev1.MemberPromoteResponse, error) {
	return nil, rpcfault.ToStatus(l.err)
}

// A refusal by the leader is the fault that it is there.
func TestRefusalOfTheLeaderIsAFault(t *testing.T) {
	for _, want := range []*fault.Error{
		fault.Newf(fault.Refused, "promote", "behind").WithHint("wait"),
		fault.Newf(fault.NotLeader, "forward", "not any more"),
		fault.Newf(fault.Timeout, "propose", "slow"),
	} {
		b := newBackend()
		b.leader = serve(t, func(r grpc.ServiceRegistrar) { chainfirev1.RegisterClusterServer(r, leading{err: want}) })()
		err := New(b).PromoteMember(t.Context(), 6)
		code(t, want.Error(), err, want.Code)
		if _, is := status.FromError(err); is || err.Error() != want.Error() || fault.HintOf(err) != want.Hint {
			t.Errorf("%q, hint %q; the leader said %q, hint %q", err, fault.HintOf(err), want, want.Hint)
		}
	}
}

// A change waits while another one is pending, and ends with its caller.
func TestChangesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		turns := 0
		b.answer = func(*backend, proposal) (state.Result, error) {
			if turns++; turns < 4 {
				return state.Result{}, fault.New(fault.Refused, "remove", ErrChangePending)
			}
			return state.Result{}, nil
		}
		if err := New(b).RemoveMember(t.Context(), 1); err != nil || turns != 4 {
			t.Errorf("%v after %d", err, turns)
		}
		b.answer = func(*backend, proposal) (state.Result, error) {
			return state.Result{}, fault.New(fault.Refused, "remove", ErrChangePending)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := New(b).RemoveMember(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestMemberList(t *testing.T) {
	b := newBackend()
	b.members = append(b.members, &entryv1.MemberRecord{Id: 2, State: isMember, Learner: true}, &entryv1.MemberRecord{Id: 3, State: isReserved, StayLearner: true},
		&entryv1.MemberRecord{Id: 4, State: isReserved}, &entryv1.MemberRecord{Id: 5, State: isRemoved})
	res, err := New(b).MemberList(t.Context(), &chainfirev1.MemberListRequest{})
	if err != nil || b.barriers != 0 || res.GetClusterId() != 0xc1 {
		t.Fatalf("%v, %v", res, err)
	}
	var got []string
	for _, m := range res.GetMembers() {
		got = append(got, fmt.Sprint(m.GetId(), m.GetRole(), m.GetState(), m.GetStayLearner()))
	}
	if s := strings.Join(got, ", "); s != "1votermemberfalse, 2learnermemberfalse, 3learnerreservedtrue, 4voterreservedfalse" {
		t.Errorf("%s", s)
	}
	if _, err := New(b).MemberList(t.Context(), &chainfirev1.MemberListRequest{Linearizable: true}); err != nil || b.barriers != 1 {
		t.Errorf("%v, %d barriers", err, b.barriers)
	}
}

// peerOf answers Status for another member.
type peerOf struct {
	chainfirev1.UnimplementedClusterServer
	id uint64
}

func (p peerOf) Status(_ context.Context, req *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	if !req.GetSelf() {
		return nil, status.Error(codes.Internal, "asked for more than itself")
	}
	return &chainfirev1.StatusResponse{MemberId: p.id, Members: []*chainfirev1.MemberStatus{{Id: p.id, Applied: 90, Revision: 4}},
		Seeds: []*chainfirev1.SeedStatus{{LeaseId: 7, Target: "other", Percent: 25, BytesPerSecond: 10}, {LeaseId: 3, Target: "early", Percent: 60, BytesPerSecond: 5}}}, nil
}

// Status asks all members side by side; one that is away, and one at whose
// address another answers, are listed with what the leader knows.
func TestStatus(t *testing.T) {
	b := newBackend()
	b.local = &chainfirev1.MemberStatus{Applied: 100}
	b.leases = []*entryv1.SeedLease{{Id: 3, Hold: 30, MemberId: 2}}
	b.raft = Raft{Leader: 1, Term: 3, Commit: 100, Progress: map[uint64]Progress{
		2: {Match: 95, RecentActive: true}, 3: {Match: 20}, 4: {Match: 100, RecentActive: true}}}
	for id := uint64(2); id < 6; id++ {
		b.members = append(b.members, &entryv1.MemberRecord{Id: id, State: isMember, PeerUrls: []string{fmt.Sprint(id)}})
	}
	b.members = append(b.members, &entryv1.MemberRecord{Id: 6, State: isRemoved})
	two := serve(t, func(r grpc.ServiceRegistrar) { chainfirev1.RegisterClusterServer(r, peerOf{id: 2}) })
	b.dial = func(_ context.Context, url string) (*grpc.ClientConn, error) {
		if url == "3" {
			return nil, fault.Newf(fault.Unreachable, "dial", "away")
		}
		return two(), nil
	}
	st, err := New(b).Status(t.Context(), &chainfirev1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range st.GetMembers() {
		got = append(got, fmt.Sprintf("%d applied %d match %d lag %d %t", m.GetId(), m.GetApplied(), m.GetMatch(), m.GetLag(), m.GetReachable()))
	}
	want := "1 applied 100 match 100 lag 0 true; 2 applied 90 match 95 lag 5 true; 3 applied 0 match 20 lag 80 false; " +
		"4 applied 0 match 100 lag 0 true; 5 applied 0 match 0 lag 100 false"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	if st.GetLeader() != 1 || st.GetTerm() != 3 || st.GetFirstIndex() != 11 || st.GetLastIndex() != 100 || len(st.GetLeases()) != 1 {
		t.Errorf("%v", st)
	}
	// Those of every member that answers, one element for a seed with two sources.
	var seeds []string
	for _, p := range st.GetSeeds() {
		seeds = append(seeds, fmt.Sprintf("%x %s %v%% %v/s", p.GetLeaseId(), p.GetTarget(), p.GetPercent(), p.GetBytesPerSecond()))
	}
	if got := strings.Join(seeds, ", "); got != "3 early 100% 5/s, 7 other 25% 10/s, 8000000000000000 late 0% 0/s" {
		t.Errorf("seeds %s", got)
	}
	// Without a leader, this member tells what each has applied.
	b.noLeader, b.raft = fault.Newf(fault.NotLeader, "forward", "none"), Raft{Term: 4, Commit: 100}
	if st, err = New(b).Status(t.Context(), &chainfirev1.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, m := range st.GetMembers() {
		got = append(got, fmt.Sprintf("%d lag %d %t", m.GetId(), m.GetLag(), m.GetReachable()))
	}
	if s := strings.Join(got, "; "); s != "1 lag 0 true; 2 lag 10 true; 3 lag 100 false; 4 lag 100 false; 5 lag 100 false" || st.GetLeader() != 0 || st.GetTerm() != 4 {
		t.Errorf("without a leader: %s, %v", s, st)
	}
	b.local.Id = 1
	self, err := New(b).Status(t.Context(), &chainfirev1.StatusRequest{Self: true})
	if err != nil || len(self.GetMembers()) != 1 || self.GetMemberId() != 1 || len(self.GetSeeds()) != 2 {
		t.Errorf("%v, %v", self, err)
	}
}
