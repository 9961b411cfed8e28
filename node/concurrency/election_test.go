package concurrency_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/chainfire/cfseed/proto/v3electionpb"
)

func (l *local) campaign(ctx context.Context, lease int64, value string) <-chan answer[*v3electionpb.CampaignResponse] {
	return begin(func() (*v3electionpb.CampaignResponse, error) {
		return l.elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)})
	})
}

// mustLead wants the leadership, under the key of the lease.
func mustLead(t *testing.T, from <-chan answer[*v3electionpb.CampaignResponse], key string) *v3electionpb.LeaderKey {
	t.Helper()
	resp, err := get(t, from)
	if l := resp.GetLeader(); err != nil || string(l.GetKey()) != key || string(l.GetName()) != "e" || l.GetRev() == 0 || l.GetLease() == 0 ||
		resp.GetHeader().GetRevision() < l.GetRev() {
		t.Fatalf("campaign: %v, %v, want %s", resp, err, key)
	}
	return resp.GetLeader()
}

func (l *local) proclaim(leader *v3electionpb.LeaderKey, value string) error {
	_, err := l.elections.Proclaim(soon(l.t), &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte(value)})
	return err
}

func (l *local) resign(leader *v3electionpb.LeaderKey) {
	l.t.Helper()
	resp, err := l.elections.Resign(soon(l.t), &v3electionpb.ResignRequest{Leader: leader})
	if err != nil || resp.GetHeader().GetRevision() == 0 {
		l.t.Fatal(resp, err)
	}
}

// leads wants the leader to proclaim the value; "" = there is none.
func (l *local) leads(value string) {
	l.t.Helper()
	resp, err := l.elections.Leader(soon(l.t), &v3electionpb.LeaderRequest{Name: []byte("e")})
	if value == "" {
		wantError(l.t, err, codes.Unknown, "election: no leader")
		return
	}
	if err != nil || string(resp.GetKv().GetValue()) != value || resp.GetHeader().GetRevision() != l.m.Revision() {
		l.t.Errorf("the leader is %v, %v, want %q", resp, err, value)
	}
}

// TestElection is a life of an election: two campaign, the leader proclaims and
// resigns, the next one leads, its lease ends.
func TestElection(t *testing.T) {
	l := newLocal(t)
	l.grant(0xa, 0xb)
	l.leads("")
	first := mustLead(t, l.campaign(soon(t), 0xa, "one"), "e/a")
	l.leads("one")
	waiting := l.campaign(soon(t), 0xb, "two")
	l.awaitKeys("e", 2)
	l.leads("one")
	if err := l.proclaim(first, "uno"); err != nil {
		t.Fatal(err)
	}
	l.leads("uno")
	l.resign(first)
	second := mustLead(t, waiting, "e/b")
	l.leads("two")
	wantError(t, l.proclaim(first, "still me"), codes.Unknown, "election: not leader")
	l.resign(first) // once more is no failure, and nobody else's end
	l.leads("two")
	l.revoke(0xb)
	l.leads("")
	wantError(t, l.proclaim(second, "gone"), codes.Unknown, "election: not leader")
	wantError(t, l.proclaim(nil, "who"), codes.Unknown, `"leader" field must be provided`)
	_, err := l.elections.Resign(soon(t), &v3electionpb.ResignRequest{})
	wantError(t, err, codes.Unknown, `"leader" field must be provided`)
}

// TestCampaignAgain: who campaigns with a lease that is in the queue already
// keeps its place and proclaims the new value.
func TestCampaignAgain(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2)
	first := mustLead(t, l.campaign(soon(t), 1, "one"), "e/1")
	if again := mustLead(t, l.campaign(soon(t), 1, "uno"), "e/1"); again.GetRev() != first.GetRev() {
		t.Errorf("another place: %v, was %v", again, first)
	}
	l.leads("uno")
	// A leader that names no lease keeps the lease it has.
	if err := l.proclaim(&v3electionpb.LeaderKey{Key: first.GetKey(), Rev: first.GetRev()}, "one"); err != nil {
		t.Fatal(err)
	}
	l.revoke(1)
	l.leads("")
}

// TestCampaignEnds: of a campaign that ends while it waits nothing is left.
func TestCampaignEnds(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2, 3)
	mustLead(t, l.campaign(soon(t), 1, "one"), "e/1")
	ctx, cancel := context.WithCancel(soon(t))
	second := l.campaign(ctx, 2, "two")
	l.awaitKeys("e", 2)
	third := l.campaign(soon(t), 3, "three")
	l.awaitKeys("e", 3)
	cancel()
	_, err := get(t, second)
	wantError(t, err, codes.Canceled, "context canceled")
	l.awaitKeys("e", 2)
	l.revoke(3)
	_, err = get(t, third)
	wantError(t, err, codes.Unknown, "election: session is expired")
	if got := l.keys("e"); !slices.Equal(got, []string{"e/1=one"}) {
		t.Errorf("the queue is %v", got)
	}
}

// observation is a stream of Observe.
type observation struct {
	t      *testing.T
	stream v3electionpb.Election_ObserveClient
}

func (l *local) observe(ctx context.Context) observation {
	l.t.Helper()
	stream, err := l.elections.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		l.t.Fatal(err)
	}
	return observation{l.t, stream}
}

// sees wants the values that come next.
func (o observation) sees(values ...string) {
	o.t.Helper()
	for _, want := range values {
		resp, err := o.stream.Recv()
		if err != nil {
			o.t.Fatalf("%v, want %q", err, want)
		}
		if got := string(resp.GetKv().GetValue()); got != want || resp.GetHeader().GetRevision() < resp.GetKv().GetModRevision() || resp.GetHeader().GetMemberId() == 0 {
			o.t.Errorf("saw %v, want %q", resp, want)
		}
	}
}

// TestObserve: the values of all leaders are seen in order, from the one that
// leads at the beginning, or the first after it.
func TestObserve(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2, 3)
	ctx, cancel := context.WithCancel(soon(t))
	early := l.observe(ctx)
	first := mustLead(t, l.campaign(soon(t), 1, "one"), "e/1")
	early.sees("one")
	waiting := l.campaign(soon(t), 2, "two")
	l.awaitKeys("e", 2)
	for _, v := range []string{"one.1", "one.2", "one.3"} {
		if err := l.proclaim(first, v); err != nil {
			t.Fatal(err)
		}
	}
	late := l.observe(soon(t))
	late.sees("one.3")
	l.resign(first) // the next one's key is older than the last value
	second := mustLead(t, waiting, "e/2")
	early.sees("one.1", "one.2", "one.3", "two")
	late.sees("two")
	l.resign(second)
	mustLead(t, l.campaign(soon(t), 3, "three"), "e/3")
	early.sees("three")
	late.sees("three")
	cancel()
	for err := error(nil); err == nil; {
		if _, err = early.stream.Recv(); errors.Is(err, io.EOF) {
			t.Error("a stream that was cancelled has ended well")
		}
	}
}

// TestObserveAcrossCompactions: what is told is the leader's value in the end,
// and no value twice.
func TestObserveAcrossCompactions(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2)
	o := l.observe(soon(t))
	first := mustLead(t, l.campaign(soon(t), 1, "0"), "e/1")
	o.sees("0")
	for _, v := range []string{"1", "2", "3", "4"} {
		if err := l.proclaim(first, v); err != nil {
			t.Fatal(err)
		}
		l.compact()
	}
	for last := "0"; last != "4"; {
		resp, err := o.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(resp.GetKv().GetValue()); got <= last {
			t.Errorf("%s after %s", got, last)
		} else {
			last = got
		}
	}
	l.resign(first)
	l.compact()
	mustLead(t, l.campaign(soon(t), 2, "5"), "e/2")
	o.sees("5")
}
