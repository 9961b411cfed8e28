package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// cluster is the far side of a join: it answers as it is told.
type cluster struct {
	chainfirev1.UnimplementedAdmissionServer
	chainfirev1.UnimplementedSeedServer
	chainfirev1.UnimplementedClusterServer
	mu       sync.Mutex
	admit    []error                           // one a call; the last stays
	statuses []*chainfirev1.JoinStatusResponse // likewise
	sentErr  error                             // of what was sent
	renewals int
	renewErr error
	renewed  chan struct{} // a token for each renewal
	reserve  *chainfirev1.ReserveResponse
	asked    *chainfirev1.ReserveRequest
	ticket   *chainfirev1.JoinTicket

	tails     []*chainfirev1.GetTailResponse // one a call; the last stays
	tail      func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error)
	tailAsked []*chainfirev1.GetTailRequest
}

func next[T any](list *[]T) T {
	v := (*list)[0]
	if len(*list) > 1 {
		*list = (*list)[1:]
	}
	return v
}

func (c *cluster) Reserve(_ context.Context, req *chainfirev1.ReserveRequest) (*chainfirev1.ReserveResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = req
	return c.reserve, nil
}

func (c *cluster) MemberList(context.Context, *chainfirev1.MemberListRequest) (*chainfirev1.MemberListResponse, error) {
	return &chainfirev1.MemberListResponse{ClusterId: c.reserve.GetClusterId(), GenesisNonce: c.reserve.GetGenesisNonce()}, nil
}

func (c *cluster) Bind(context.Context, *chainfirev1.BindRequest) (*chainfirev1.BindResponse, error) {
	return &chainfirev1.BindResponse{}, nil
}

func (c *cluster) Admit(_ context.Context, req *chainfirev1.AdmitRequest) (*chainfirev1.AdmitResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ticket = req.GetTicket()
	if err := next(&c.admit); err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	return &chainfirev1.AdmitResponse{AddedAt: 50, EntriesAfterAdd: 10}, nil
}

func (c *cluster) JoinStatus(_ context.Context, req *chainfirev1.JoinStatusRequest) (*chainfirev1.JoinStatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.GetSent() && c.sentErr != nil {
		return nil, rpcfault.ToStatus(c.sentErr)
	}
	return next(&c.statuses), nil
}

func (c *cluster) RenewLease(context.Context, *chainfirev1.RenewLeaseRequest) (*chainfirev1.RenewLeaseResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewals++
	select {
	case c.renewed <- struct{}{}:
	default:
	}
	return &chainfirev1.RenewLeaseResponse{TtlMs: 30}, rpcfault.ToStatus(c.renewErr)
}

func (c *cluster) GetTail(_ context.Context, req *chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tailAsked = append(c.tailAsked, req)
	switch {
	case c.tail != nil:
		res, err := c.tail(req)
		return res, rpcfault.ToStatus(err)
	case len(c.tails) > 0:
		return next(&c.tails), nil
	}
	return nil, rpcfault.ToStatus(fault.Newf(fault.Unreachable, "get tail", "not now"))
}

// firstTail is the first request for a tail.
func (c *cluster) firstTail() *chainfirev1.GetTailRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tailAsked[0]
}

func (c *cluster) tailCalls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tailAsked)
}

// serve answers until the test ends, and gives the way there.
func (c *cluster) serve(t *testing.T) Dialer {
	t.Helper()
	c.renewed = make(chan struct{}, 1)
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	chainfirev1.RegisterAdmissionServer(srv, c)
	chainfirev1.RegisterSeedServer(srv, c)
	chainfirev1.RegisterClusterServer(srv, c)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // before it began
			t.Error(err)
		}
	})
	return func(context.Context, string) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///cluster", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	}
}

func newcomer(t *testing.T, c *cluster, change func(*Config)) (*Newcomer, *[]string) {
	t.Helper()
	var phases []string
	cfg := Config{Dir: datadir.At(vfs.NewMem(), "data"), Name: "n", Endpoints: []string{"a"}, Dial: c.serve(t),
		IdleTimeout: 10 * time.Second, LeaseTTL: 30 * time.Millisecond, Started: func(p string) { phases = append(phases, p) }}
	if change != nil {
		change(&cfg)
	}
	n := New(cfg)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, &phases
}

func seeded() datadir.Identity {
	return datadir.Identity{Cluster: aCluster(), MemberID: 5, Directory: ident.Nonce{4}, Name: "n",
		Seed: &datadir.SeedRef{Position: ident.Position{Term: 2, Index: 40}, ManifestRoot: [32]byte{7}, LeaseID: 9}}
}

// A queued admission is asked for again and again; meanwhile the lease of the
// seed is renewed, and afterwards no more: then it is the leader's to end.
func TestAdmitQueues(t *testing.T) {
	queued := fault.Newf(fault.InUse, "admit", "queued")
	c := &cluster{admit: []error{queued, queued, nil}}
	n, phases := newcomer(t, c, nil)
	n.holdLease(t.Context(), 9)
	<-c.renewed
	if err := n.Bind(t.Context(), seeded()); err != nil {
		t.Fatal(err)
	}
	res, err := n.Admit(t.Context(), seeded())
	if err != nil || res.GetAddedAt() != 50 {
		t.Fatalf("%v, %v", res, err)
	}
	if n.letGo != nil {
		t.Error("the lease is still held")
	}
	if got := c.ticket; got.GetMemberId() != 5 || got.GetLeaseId() != 9 || got.GetPosition().GetIndex() != 40 || got.GetClusterId() != aCluster().ID {
		t.Errorf("ticket %v", got)
	}
	if got := fmt.Sprint(*phases); got != "[admit admit admit]" { // two of them for who follows
		t.Errorf("told %s", got)
	}
	if len(n.Phases()) != 1 {
		t.Errorf("phases %v", n.Phases())
	}
}

func TestAdmitErrors(t *testing.T) {
	for _, c := range []struct {
		code  fault.Code
		stale bool
	}{{fault.Refused, false}, {fault.Reseed, true}, {fault.LeaseLost, true}, {fault.Usage, false}} {
		far := &cluster{admit: []error{fault.Newf(c.code, "admit", "no")}}
		n, _ := newcomer(t, far, nil)
		_, err := n.Admit(t.Context(), seeded())
		if !fault.Is(err, c.code) || TooOld(err) != c.stale || (n.stale == seeded().Seed.ManifestRoot) != c.stale {
			t.Errorf("%s: %v, stale %x", c.code, err, n.stale)
		}
	}
	n, _ := newcomer(t, &cluster{}, nil)
	if _, err := n.Admit(t.Context(), datadir.Identity{MemberID: 5}); !fault.Is(err, fault.Internal) {
		t.Errorf("no ticket: %v", err)
	}
}

// The lease is renewed until it is let go, which waits for the last call.
func TestHoldLease(t *testing.T) {
	c := &cluster{}
	n, _ := newcomer(t, c, nil)
	n.holdLease(t.Context(), 0)
	if n.letGo != nil {
		t.Error("no lease is held")
	}
	n.holdLease(t.Context(), 9)
	for range 3 {
		<-c.renewed
	}
	n.dropLease()
	c.mu.Lock()
	before := c.renewals
	c.mu.Unlock()
	n.dropLease()
	c.mu.Lock()
	defer c.mu.Unlock()
	if before < 3 || c.renewals != before {
		t.Errorf("%d renewals, then %d", before, c.renewals)
	}
}

func statusOf(state, role, progress string, match, last uint64) *chainfirev1.JoinStatusResponse {
	return &chainfirev1.JoinStatusResponse{Member: &chainfirev1.Member{Id: 5, State: state, Role: role}, ProgressState: progress,
		Match: match, LastIndex: last}
}

func TestCatchUp(t *testing.T) {
	near, far := statusOf("member", "learner", "replicate", 90, 100), statusOf("member", "learner", "replicate", 10, 100)
	voter := statusOf("member", "voter", "replicate", 100, 100)
	stays := statusOf("member", "learner", "replicate", 90, 100)
	stays.Member.StayLearner = true
	for _, c := range []struct {
		name     string
		learner  bool
		statuses []*chainfirev1.JoinStatusResponse
		phases   string
		code     fault.Code
	}{
		{"promoted", false, []*chainfirev1.JoinStatusResponse{far, near, near, voter}, "catch_up promote", ""},
		{"promoted at once", false, []*chainfirev1.JoinStatusResponse{voter}, "catch_up", ""},
		{"stays a learner", true, []*chainfirev1.JoinStatusResponse{far, near}, "catch_up", ""},
		{"reserved as one that stays a learner", false, []*chainfirev1.JoinStatusResponse{far, stays}, "catch_up", ""},
		{"reserved yet, at a leader that is behind", false, []*chainfirev1.JoinStatusResponse{statusOf("reserved", "learner", "none", 0, 100), voter}, "catch_up", ""},
		{"64 behind is near", true, []*chainfirev1.JoinStatusResponse{statusOf("member", "learner", "replicate", 36, 100)}, "catch_up", ""},
		{"near, but probing", true, []*chainfirev1.JoinStatusResponse{statusOf("member", "learner", "probe", 100, 100), statusOf("removed", "learner", "none", 0, 0)}, "catch_up", fault.Refused},
		{"65 behind is not", true, []*chainfirev1.JoinStatusResponse{statusOf("member", "learner", "replicate", 35, 100), statusOf("removed", "learner", "none", 0, 0)}, "catch_up", fault.Refused},
		{"removed", false, []*chainfirev1.JoinStatusResponse{far, statusOf("removed", "learner", "none", 0, 0)}, "catch_up", fault.Refused},
		{"stuck", false, []*chainfirev1.JoinStatusResponse{far}, "catch_up", fault.Timeout},
		{"never promoted", false, []*chainfirev1.JoinStatusResponse{far, near}, "catch_up promote", fault.Timeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			n, phases := newcomer(t, &cluster{statuses: c.statuses}, func(cfg *Config) {
				cfg.Learner = c.learner
				cfg.Now = func() time.Time { now = now.Add(500 * time.Millisecond); return now }
			})
			st, err := n.CatchUp(t.Context(), 5)
			if fault.CodeOf(err) != c.code || (err == nil) != (st.GetMember().GetState() == "member" && err == nil) {
				t.Errorf("%v, %v", st, err)
			}
			if got := strings.Join(compact(*phases), " "); got != c.phases {
				t.Errorf("phases %s, want %s", got, c.phases)
			}
		})
	}
}

// compact drops mentions of a phase that lasts.
func compact(phases []string) []string {
	var out []string
	for _, p := range phases {
		if len(out) == 0 || out[len(out)-1] != p {
			out = append(out, p)
		}
	}
	return out
}

// TestReserveChecks is what a newcomer checks of the cluster that answers.
func TestReserveChecks(t *testing.T) {
	answer := func(id uint64, genesis ident.Nonce, member uint64) *chainfirev1.ReserveResponse {
		return &chainfirev1.ReserveResponse{ClusterId: id, GenesisNonce: genesis.Bytes(), MemberId: member}
	}
	own := aCluster()
	for _, c := range []struct {
		name     string
		expected ident.Cluster
		reserved uint64
		answer   *chainfirev1.ReserveResponse
		code     fault.Code
	}{
		{"whatever answers", ident.Cluster{}, 0, answer(own.ID, own.Genesis, 5), ""},
		{"the one expected", own, 5, answer(own.ID, own.Genesis, 5), ""},
		{"another cluster", own, 0, answer(own.ID+1, own.Genesis, 5), fault.Refused},
		{"same flags, another genesis", own, 0, answer(own.ID, ident.Nonce{1}, 5), fault.Refused},
		{"another reservation", own, 6, answer(own.ID, own.Genesis, 5), fault.Refused},
		{"no nonce", own, 0, &chainfirev1.ReserveResponse{ClusterId: own.ID, GenesisNonce: []byte{1}, MemberId: 5}, fault.Corrupt},
	} {
		far := &cluster{reserve: c.answer}
		n, _ := newcomer(t, far, func(cfg *Config) {
			cfg.Cluster, cfg.Reserved, cfg.Directory, cfg.PeerURLs = c.expected, c.reserved, ident.Nonce{4}, []string{"http://n:1"}
		})
		if _, err := n.reserve(t.Context()); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if another := c.answer.GetClusterId() != own.ID || !bytes.Equal(c.answer.GetGenesisNonce(), own.Genesis.Bytes()); another && c.code != "" {
			if far.asked != nil {
				t.Errorf("%s: it has a reservation now", c.name)
			}
		} else if far.asked.GetName() != "n" || len(far.asked.GetPeerUrls()) != 1 || len(far.asked.GetDirectoryNonce()) != 16 {
			t.Errorf("%s: asked with %v", c.name, far.asked)
		}
	}
}

// A directory that holds a member takes no part in a join; a member whose
// directory is gone is told so.
func TestPrepareRefusals(t *testing.T) {
	n, _ := newcomer(t, &cluster{}, nil)
	d := n.cfg.Dir
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	if err := d.CommitIdentity(datadir.Identity{MemberID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Prepare(t.Context()); !fault.Is(err, fault.Refused) {
		t.Errorf("a member's directory: %v", err)
	}
	own := aCluster()
	n, _ = newcomer(t, &cluster{reserve: &chainfirev1.ReserveResponse{ClusterId: own.ID, GenesisNonce: own.Genesis.Bytes(),
		MemberId: 5, AlreadyMember: true}}, nil)
	if _, err := n.Prepare(t.Context()); !fault.Is(err, fault.Refused) || !strings.Contains(fault.HintOf(err), "member remove") {
		t.Errorf("a member without its directory: %v", err)
	}
}

// What was sent is told as the leader knows it; a leader that can not be asked
// leaves it unknown and the join done.
func TestSent(t *testing.T) {
	entries, snapshots := uint64(7), uint64(0)
	told := &chainfirev1.JoinStatusResponse{EntriesSent: &entries, RaftSnapshotsSent: &snapshots}
	for _, c := range []struct {
		name    string
		cluster *cluster
		known   bool
	}{
		{"known", &cluster{statuses: []*chainfirev1.JoinStatusResponse{told}}, true},
		{"not known", &cluster{statuses: []*chainfirev1.JoinStatusResponse{{}}}, false},
		{"nobody to ask", &cluster{sentErr: fault.Newf(fault.Refused, "join status", "no")}, false},
	} {
		n, _ := newcomer(t, c.cluster, nil)
		n.startPhase(PhasePromote)
		e, s := n.Sent(t.Context(), 5)
		if (e != nil) != c.known || (s != nil) != c.known || c.known && (*e != 7 || *s != 0) {
			t.Errorf("%s: %v, %v", c.name, e, s)
		}
		if n.current != "" || len(n.phases) != 1 {
			t.Errorf("%s: asking lasts as phase %q", c.name, n.current)
		}
	}
}
