package join

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// script answers calls by endpoint: each call takes the endpoint's next answer,
// the last one stays.
type script struct {
	answers map[string][]error
	asked   []string
	at      map[*grpc.ClientConn]string
}

func (s *script) dial(_ context.Context, endpoint string) (*grpc.ClientConn, error) {
	if endpoint == "undialable" {
		return nil, fault.Newf(fault.Unreachable, "dial", "no")
	}
	conn, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		if s.at == nil {
			s.at = map[*grpc.ClientConn]string{}
		}
		s.at[conn] = endpoint
	}
	return conn, err
}

var errHang = errors.New("hang")

func (s *script) call(ctx context.Context, conn *grpc.ClientConn) error {
	endpoint := s.at[conn]
	s.asked = append(s.asked, endpoint)
	list := s.answers[endpoint]
	err := list[0]
	if len(list) > 1 {
		s.answers[endpoint] = list[1:]
	}
	if errors.Is(err, errHang) {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

func TestClientGoesOnToTheNextMember(t *testing.T) {
	gone := status.Error(codes.Unavailable, "connection refused")
	noLeader := rpcfault.ToStatus(fault.Newf(fault.NotLeader, "forward", "no leader"))
	refused := rpcfault.ToStatus(fault.Newf(fault.Refused, "admit", "no").WithHint("ask somebody else"))
	for _, c := range []struct {
		name      string
		endpoints string
		answers   map[string][]error
		asked     string
		code      fault.Code
	}{
		{"first answers", "a b", map[string][]error{"a": {nil}}, "a", ""},
		{"first is gone", "a b", map[string][]error{"a": {gone}, "b": {nil}}, "a b", ""},
		{"first has no leader", "a b", map[string][]error{"a": {noLeader}, "b": {nil}}, "a b", ""},
		{"first can not be dialled", "undialable b", map[string][]error{"b": {nil}}, "b", ""},
		{"first hangs", "a b", map[string][]error{"a": {errHang}, "b": {nil}}, "a b", ""},
		{"round and round", "a b", map[string][]error{"a": {gone, noLeader, nil}, "b": {gone}}, "a b a b a", ""},
		{"a refusal counts for all", "a b", map[string][]error{"a": {refused}, "b": {nil}}, "a", fault.Refused},
		{"nobody", "a", map[string][]error{"a": {gone}}, "", fault.Unreachable},
		{"no leader for good", "a", map[string][]error{"a": {noLeader}}, "", fault.NotLeader},
		{"hangs for good", "a", map[string][]error{"a": {errHang}}, "a a a a", fault.Timeout},
		{"no endpoint", "", nil, "", fault.Usage},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: c.answers}
				cl := newClient(s.dial, strings.Fields(c.endpoints))
				defer cl.Close() //nolint:errcheck // test
				began := time.Now()
				err := cl.call(t.Context(), "test", time.Minute, s.call)
				if fault.CodeOf(err) != c.code {
					t.Errorf("%v, want %q", err, c.code)
				}
				if err != nil && c.code != fault.Usage && fault.HintOf(err) == "" {
					t.Errorf("%v has no hint", err)
				}
				if c.asked != "" && strings.Join(s.asked, " ") != c.asked {
					t.Errorf("asked %v, want %s", s.asked, c.asked)
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestClientEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string][]error{"a": {errHang}}}
		cl := newClient(s.dial, []string{"a"})
		defer cl.Close() //nolint:errcheck // test
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if err := cl.call(ctx, "test", time.Minute, s.call); !fault.Is(err, fault.Interrupted) || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// A member that answered is asked again, not the first of the list.
func TestClientStaysWithWhoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string][]error{"a": {status.Error(codes.Unavailable, "")}, "b": {nil}}}
		cl := newClient(s.dial, []string{"a", "b"})
		defer cl.Close() //nolint:errcheck // test
		for range 3 {
			if err := cl.call(t.Context(), "test", time.Minute, s.call); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(s.asked, " "); got != "a b b b" {
			t.Errorf("asked %s", got)
		}
	})
}

func TestClientLearns(t *testing.T) {
	given := []string{"a"}
	cl := newClient(nil, given)
	cl.learn([]*chainfirev1.Member{{ClientUrls: []string{"a", "b", ""}}, {ClientUrls: []string{"b", "c"}}})
	if !slices.Equal(cl.endpoints, []string{"a", "b", "c"}) || len(given) != 1 {
		t.Errorf("%v, given %v", cl.endpoints, given)
	}
}

// A client address that was learned may ask for a user; one that was given is
// believed.
func TestClientPassesOverWhoAsksForAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		denied := status.Error(codes.PermissionDenied, "who are you")
		s := &script{answers: map[string][]error{"a": {status.Error(codes.Unavailable, ""), nil, denied}, "b": {denied}}}
		cl := newClient(s.dial, []string{"a"})
		defer cl.Close() //nolint:errcheck // test
		cl.learn([]*chainfirev1.Member{{ClientUrls: []string{"b"}}})
		if err := cl.call(t.Context(), "test", time.Minute, s.call); err != nil {
			t.Fatal(err)
		}
		if err := cl.call(t.Context(), "test", time.Minute, s.call); !fault.Is(err, fault.Permission) {
			t.Errorf("asked %s: %v", s.asked, err)
		}
		if got := strings.Join(s.asked, " "); got != "a b a a" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestWatchdog lets one second pass before each status; a wait of three without
// progress ends.
func TestWatchdog(t *testing.T) {
	probe := func(match uint64, contact float64) *chainfirev1.JoinStatusResponse {
		return &chainfirev1.JoinStatusResponse{Match: match, LastIndex: 100, ProgressState: "probe", SecondsSinceContact: contact}
	}
	coming := &chainfirev1.JoinStatusResponse{ProgressState: "snapshot", SecondsSinceContact: 0.5}
	silent := &chainfirev1.JoinStatusResponse{ProgressState: "snapshot", SecondsSinceContact: 60}
	repeat := func(n int, st *chainfirev1.JoinStatusResponse) []*chainfirev1.JoinStatusResponse {
		return slices.Repeat([]*chainfirev1.JoinStatusResponse{st}, n)
	}
	for _, c := range []struct {
		name     string
		statuses []*chainfirev1.JoinStatusResponse
		want     string // empty: no end
	}{
		{"rises", []*chainfirev1.JoinStatusResponse{probe(1, 0), probe(2, 0), probe(3, 0), probe(4, 0), probe(5, 0)}, ""},
		{"rises now and then", []*chainfirev1.JoinStatusResponse{probe(1, 0), probe(1, 0), probe(1, 0), probe(2, 0), probe(2, 0), probe(2, 0)}, ""},
		{"stands", repeat(4, probe(9, 1)), "not_progressing"},
		{"never heard of", repeat(4, probe(0, -1)), "never_contacted"},
		{"heard of, nothing taken", repeat(4, probe(0, 1)), "contacted_not_initialised"},
		{"a Raft snapshot comes", repeat(9, coming), ""},
		{"a Raft snapshot to nobody", repeat(4, silent), "contacted_not_initialised"},
		{"falls", []*chainfirev1.JoinStatusResponse{probe(5, 0), probe(4, 0), probe(3, 0), probe(4, 0)}, "not_progressing"},
	} {
		now := time.Unix(0, 0)
		w := newWatchdog(3*time.Second, func() time.Time { return now })
		var err error
		for i, st := range c.statuses {
			now = now.Add(time.Second)
			if err != nil {
				t.Fatalf("%s: ended before status %d: %v", c.name, i, err)
			}
			err = w.check(st)
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), c.want) || fault.HintOf(err) == ""):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}
