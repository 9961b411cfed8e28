package join

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// follower is the stream of one caller of Join.
type follower struct {
	grpc.ServerStream
	ctx context.Context
	mu  sync.Mutex
	got []*chainfirev1.MemberAddResponse
	err error // of Send
}

func (f *follower) Context() context.Context { return f.ctx }
func (f *follower) Send(m *chainfirev1.MemberAddResponse) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, m)
	return f.err
}

// heard gives what came: phases by name, transfers by their bytes.
func (f *follower) heard() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, m := range f.got {
		switch {
		case m.GetPhase() != nil:
			out = append(out, m.GetPhase().GetName())
		case m.GetTransfer() != nil:
			out = append(out, fmt.Sprint(m.GetTransfer().GetBytesDone()))
		default:
			out = append(out, "result")
		}
	}
	return strings.Join(out, " ")
}

func phase(name string) *chainfirev1.MemberAddResponse {
	return &chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Phase{Phase: &chainfirev1.PhaseStarted{Name: name}}}
}

func moved(done uint64) *chainfirev1.MemberAddResponse {
	return &chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{Transfer: &chainfirev1.TransferProgress{BytesDone: done}}}
}

func awaitRoom(cfg AwaitConfig) *Await {
	cfg.Name = "n"
	cfg.Directory = func() ident.Nonce { return ident.Nonce{1} }
	cfg.FreeBytes = func() (uint64, error) { return 77, nil }
	return NewAwait(cfg)
}

// join calls Join and gives how it ends.
func joins(a *Await, ctx context.Context, req *chainfirev1.JoinRequest) (*follower, chan error) {
	f, ended := &follower{ctx: ctx}, make(chan error, 1)
	go func() { ended <- a.Join(req, f) }()
	return f, ended
}

// TestAwaitAccepts is S11: the token or the cluster it was started with, at
// every way in.
func TestAwaitAccepts(t *testing.T) {
	for _, c := range []struct {
		name    string
		cfg     AwaitConfig
		cluster uint64
		token   string
		code    fault.Code
	}{
		{"open", AwaitConfig{}, 7, "", ""},
		{"token", AwaitConfig{Token: "t"}, 7, "t", ""},
		{"no token", AwaitConfig{Token: "t"}, 7, "", fault.Permission},
		{"wrong token", AwaitConfig{Token: "t"}, 7, "T", fault.Permission},
		{"longer token", AwaitConfig{Token: "t"}, 7, "tt", fault.Permission},
		{"token not asked for", AwaitConfig{}, 7, "t", ""},
		{"cluster", AwaitConfig{ClusterID: 7}, 7, "", ""},
		{"other cluster", AwaitConfig{ClusterID: 8}, 7, "", fault.Refused},
		{"no cluster", AwaitConfig{ClusterID: 8}, 0, "", fault.Refused},
		{"token, other cluster", AwaitConfig{Token: "t", ClusterID: 8}, 7, "t", fault.Refused},
		{"cluster, wrong token", AwaitConfig{Token: "t", ClusterID: 7}, 7, "", fault.Permission},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := awaitRoom(c.cfg)
				if _, err := a.Probe(t.Context(), &chainfirev1.ProbeRequest{ClusterId: c.cluster, JoinToken: c.token}); fault.CodeOf(err) != c.code {
					t.Errorf("probe: %v", err)
				}
				if err := a.Accept(c.cluster, c.token); fault.CodeOf(err) != c.code {
					t.Errorf("push: %v", err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				_, ended := joins(a, ctx, &chainfirev1.JoinRequest{ClusterId: c.cluster, JoinToken: c.token})
				synctest.Wait()
				cancel()
				if err := <-ended; c.code != "" && fault.CodeOf(err) != c.code || c.code == "" && !errors.Is(err, context.Canceled) {
					t.Errorf("join: %v", err)
				}
			})
		})
	}
}

// A join goes on when its caller goes away; who comes late hears it from the
// beginning, of the transfer the latest only.
func TestAwaitFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := awaitRoom(AwaitConfig{})
		req := &chainfirev1.JoinRequest{ClusterId: 7, MemberId: 5}
		ctx, leave := context.WithCancel(t.Context())
		first, firstEnded := joins(a, ctx, req)
		got, err := a.Invitation(t.Context())
		if err != nil || got != req {
			t.Fatalf("%v, %v", got, err)
		}
		a.Say(phase("seed"))
		for i := range uint64(3) {
			a.Say(moved(i + 1))
			synctest.Wait()
		}
		if got := first.heard(); got != "seed 1 2 3" {
			t.Errorf("the first heard %s", got)
		}
		leave()
		if err := <-firstEnded; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		a.Say(phase("verify"))
		late, lateEnded := joins(a, t.Context(), req)
		synctest.Wait()
		if got := late.heard(); got != "seed 3 verify" {
			t.Errorf("the late one heard %s", got)
		}
		if p, err := a.Probe(t.Context(), &chainfirev1.ProbeRequest{}); err != nil || p.GetState() != "joining" || p.GetMemberId() != 5 || p.GetFreeBytes() != 77 {
			t.Errorf("%v, %v", p, err)
		}
		// Another invitation meanwhile is told so.
		for _, other := range []*chainfirev1.JoinRequest{{ClusterId: 7, MemberId: 6}, {ClusterId: 8, MemberId: 5}} {
			if err := a.Join(other, &follower{ctx: t.Context()}); !fault.Is(err, fault.InUse) {
				t.Errorf("%v", err)
			}
		}
		if err := a.Receive(nil); !fault.Is(err, fault.InUse) {
			t.Errorf("a push beside a join: %v", err)
		}
		a.Say(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: &chainfirev1.MemberAddResult{}}})
		a.Finish(nil)
		if err := <-lateEnded; err != nil || late.heard() != "seed 3 verify result" {
			t.Errorf("%v; heard %s", err, late.heard())
		}
		if err := a.Join(req, &follower{ctx: t.Context()}); !fault.Is(err, fault.Refused) {
			t.Errorf("a join of a member: %v", err)
		}
	})
}

// After a join that failed the next one starts afresh, and who followed the
// first hears nothing of it.
func TestAwaitAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := awaitRoom(AwaitConfig{})
		failed := fault.Newf(fault.NoSpace, "join", "full")
		for i := range uint64(3) {
			f, ended := joins(a, t.Context(), &chainfirev1.JoinRequest{MemberId: i + 1})
			req, err := a.Invitation(t.Context())
			if err != nil || req.GetMemberId() != i+1 {
				t.Fatalf("%v, %v", req, err)
			}
			a.Say(phase(fmt.Sprint(i)))
			a.Finish(failed)
			if err := <-ended; !errors.Is(err, failed) || f.heard() != fmt.Sprint(i) {
				t.Errorf("%v; heard %s", err, f.heard())
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if req, err := a.Invitation(ctx); !fault.Is(err, fault.Timeout) {
			t.Errorf("an invitation was left over: %v, %v", req, err)
		}
	})
}

// A join that is stuck loses its followers, not its end: nobody is asked to
// begin it again.
func TestAwaitStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := awaitRoom(AwaitConfig{})
		req := &chainfirev1.JoinRequest{MemberId: 5}
		_, ended := joins(a, t.Context(), req)
		if _, err := a.Invitation(t.Context()); err != nil {
			t.Fatal(err)
		}
		slow := fault.Newf(fault.Timeout, "catch up", "slow")
		for range 3 {
			a.Stuck(slow)
			if err := <-ended; !errors.Is(err, slow) {
				t.Fatalf("%v", err)
			}
			if err := a.Receive(nil); !fault.Is(err, fault.InUse) {
				t.Errorf("a push into a member: %v", err)
			}
			_, ended = joins(a, t.Context(), req)
			synctest.Wait()
		}
		a.Finish(nil)
		if err := <-ended; err != nil {
			t.Errorf("%v", err)
		}
	})
}

func TestAwaitReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan error)
		a := awaitRoom(AwaitConfig{Receive: func(grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
			close(entered)
			return <-leave
		}})
		ended := make(chan error, 1)
		go func() { ended <- a.Receive(nil) }()
		<-entered
		if err := a.Receive(nil); !fault.Is(err, fault.InUse) {
			t.Errorf("a second push: %v", err)
		}
		if err := a.Join(&chainfirev1.JoinRequest{}, &follower{ctx: t.Context()}); !fault.Is(err, fault.InUse) {
			t.Errorf("a join beside a push: %v", err)
		}
		broken := errors.New("broken")
		leave <- broken
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, joined := joins(a, ctx, &chainfirev1.JoinRequest{})
		if _, err := a.Invitation(t.Context()); err != nil {
			t.Errorf("after the push: %v", err)
		}
		cancel()
		<-joined
		a.Member()
		if err := a.Receive(nil); !fault.Is(err, fault.InUse) {
			t.Errorf("a push into a member: %v", err)
		}
	})
}

// A follower whose line broke ends its own call and nothing else.
func TestAwaitBrokenFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := awaitRoom(AwaitConfig{})
		a.join = &joinIn{req: &chainfirev1.JoinRequest{}}
		a.Say(phase("seed"))
		broken := errors.New("broken")
		if err := a.Join(&chainfirev1.JoinRequest{}, &follower{ctx: t.Context(), err: broken}); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	})
}
