package clusterapi

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Reserve allocates a member ID through the log, or finds the one a retry made.
func (s *Service) Reserve(ctx context.Context, req *chainfirev1.ReserveRequest) (*chainfirev1.ReserveResponse, error) {
	rec, err := s.reserve(ctx, &entryv1.ReserveMember{Name: req.GetName(), PeerUrls: req.GetPeerUrls(),
		StayLearner: req.GetStayLearner(), DirectoryNonce: req.GetDirectoryNonce()})
	if err != nil {
		return nil, err
	}
	sources, err := s.sources(ctx, rec.GetId())
	if err != nil {
		return nil, err
	}
	c := s.b.State().Cluster()
	return &chainfirev1.ReserveResponse{ClusterId: c.GetClusterId(), GenesisNonce: c.GetGenesisNonce(),
		MemberId:      rec.GetId(),
		AlreadyMember: rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER,
		Members:       live(s.b.State().Members()), Sources: sources}, nil
}

func (s *Service) reserve(ctx context.Context, body *entryv1.ReserveMember) (*entryv1.MemberRecord, error) {
	if s.b.State().Cluster() == nil {
		return nil, fault.Newf(fault.Unreachable, "reserve", "the cluster has no leader yet")
	}
	res, err := s.b.Propose(ctx, envelope.ReserveMember, body)
	if err != nil {
		return nil, err
	}
	rec, ok := res.Response.(*entryv1.MemberRecord)
	if !ok {
		return nil, fault.Newf(fault.Internal, "reserve", "unexpected result %T", res.Response)
	}
	return rec, nil
}

// Bind ties a reserved ID to one data directory (S4).
func (s *Service) Bind(ctx context.Context, req *chainfirev1.BindRequest) (*chainfirev1.BindResponse, error) {
	if err := s.sameCluster("bind", req.GetClusterId(), req.GetGenesisNonce()); err != nil {
		return nil, err
	}
	_, err := s.b.Propose(ctx, envelope.BindMember,
		&entryv1.BindMember{Id: req.GetMemberId(), DirectoryNonce: req.GetDirectoryNonce()})
	if err != nil {
		return nil, err
	}
	return &chainfirev1.BindResponse{}, nil
}

func (s *Service) sameCluster(op string, id uint64, genesis []byte) error {
	c := s.b.State().Cluster()
	if c == nil {
		return fault.Newf(fault.Unreachable, op, "the cluster has no leader yet")
	}
	nonce, err := ident.NonceFrom(genesis)
	if err != nil {
		return fault.New(fault.Usage, op, err)
	}
	own, err := ident.NonceFrom(c.GetGenesisNonce())
	if err != nil {
		return fault.New(fault.Corrupt, op, err)
	}
	if id != c.GetClusterId() || nonce != own {
		return fault.Newf(fault.Refused, op, "the ticket is of cluster %s (%s), this is %s (%s)",
			ident.FormatID(id), nonce, ident.FormatID(c.GetClusterId()), own).
			WithHint("check the endpoints; a seed joins only the cluster it came from")
	}
	return nil
}

// Admit checks the ticket and adds the learner (S6).
func (s *Service) Admit(ctx context.Context, req *chainfirev1.AdmitRequest) (*chainfirev1.AdmitResponse, error) {
	return atLeader(ctx, s.b,
		func(ctx context.Context) (*chainfirev1.AdmitResponse, error) { return s.admit(ctx, req.GetTicket()) },
		func(ctx context.Context, c grpc.ClientConnInterface) (*chainfirev1.AdmitResponse, error) {
			return chainfirev1.NewAdmissionClient(c).Admit(ctx, req)
		})
}

// queuePause is how often a queued admission looks whether it is its turn, and
// queuePatience how long it does before it tells the newcomer to ask again: a
// call that takes longer can not be told from one that hangs.
const (
	queuePause    = 50 * time.Millisecond
	queuePatience = 5 * time.Second
)

func (s *Service) admit(ctx context.Context, t *chainfirev1.JoinTicket) (*chainfirev1.AdmitResponse, error) {
	if err := s.sameCluster("admit", t.GetClusterId(), t.GetGenesisNonce()); err != nil {
		return nil, err
	}
	if err := s.b.Barrier(ctx); err != nil {
		return nil, err
	}
	for asked := time.Now(); ; {
		rec := s.b.State().Member(t.GetMemberId())
		if rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
			return admitted(rec.GetAddedAt(), t), nil
		}
		if err := policy.Admissible(ticketOf(t), s.b.State(), s.b.Log()); err != nil {
			return nil, err
		}
		why := "other learners have not caught up yet"
		if s.learners() < s.b.MaxLearners() || rec.GetStayLearner() {
			res, err := s.b.ProposeConf(ctx, state.ConfChange{Type: state.AddLearner, NodeID: t.GetMemberId()}, envelope.AddLearner,
				&entryv1.AddLearner{Id: t.GetMemberId(), LeaseId: t.GetLeaseId(), Position: t.GetPosition(), ManifestRoot: t.GetManifestRoot()})
			if err == nil {
				return admitted(res.Index, t), nil
			}
			// A call that came twice finds what the other one did.
			done := s.b.State().Member(t.GetMemberId()).GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER
			if !changePending(err) && !done {
				return nil, err
			}
			why = "another configuration change is pending"
		}
		if time.Since(asked) >= queuePatience {
			if err := s.touch(ctx, t.GetMemberId()); err != nil {
				return nil, err
			}
			return nil, fault.Newf(fault.InUse, "admit", "the admission is queued: %s", why).WithHint("ask again")
		}
		if err := pause(ctx, queuePause); err != nil {
			return nil, err
		}
	}
}

// touchEvery is how often a queued newcomer is put down as alive: often against
// the time after which a reservation without a sign of life is ended.
const touchEvery = time.Minute

// touch keeps the reservation of a newcomer that waits its turn. A lease bound
// to it does that as well, but a seed copied from a stopped member has none,
// and one that was pushed before the reservation is bound to nobody.
func (s *Service) touch(ctx context.Context, id uint64) error {
	if !s.touched.due(id, time.Now()) {
		return nil
	}
	_, err := s.b.Propose(ctx, envelope.TouchReservation, &entryv1.TouchReservation{Id: id})
	return err
}

// touches remembers when each queued newcomer was put down as alive.
type touches struct {
	mu   sync.Mutex
	last map[uint64]time.Time
}

func (t *touches) due(id uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, at := range t.last {
		if now.Sub(at) >= touchEvery {
			delete(t.last, other)
		}
	}
	if _, lately := t.last[id]; lately {
		return false
	}
	if t.last == nil {
		t.last = map[uint64]time.Time{}
	}
	t.last[id] = now
	return true
}

func ticketOf(t *chainfirev1.JoinTicket) policy.Ticket {
	pos := ident.Position{Term: t.GetPosition().GetTerm(), Index: t.GetPosition().GetIndex()}
	return policy.Ticket{MemberID: t.GetMemberId(), Position: pos, LeaseID: t.GetLeaseId()}
}

func admitted(at uint64, t *chainfirev1.JoinTicket) *chainfirev1.AdmitResponse {
	return &chainfirev1.AdmitResponse{AddedAt: at, EntriesAfterAdd: at - min(at, t.GetPosition().GetIndex())}
}

// ErrChangePending is wrapped by a refusal of ProposeConf because another
// configuration change is not applied yet; the caller may ask again.
var ErrChangePending = errors.New("another configuration change is pending")

func changePending(err error) bool { return errors.Is(err, ErrChangePending) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (s *Service) learners() int {
	n := 0
	for _, m := range s.b.State().Members() {
		if m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && m.GetLearner() && !m.GetStayLearner() {
			n++
		}
	}
	return n
}

// JoinStatus says how far the leader sees a newcomer.
func (s *Service) JoinStatus(ctx context.Context, req *chainfirev1.JoinStatusRequest) (*chainfirev1.JoinStatusResponse, error) {
	return atLeader(ctx, s.b,
		func(ctx context.Context) (*chainfirev1.JoinStatusResponse, error) {
			return s.joinStatus(ctx, req)
		},
		func(ctx context.Context, c grpc.ClientConnInterface) (*chainfirev1.JoinStatusResponse, error) {
			return chainfirev1.NewAdmissionClient(c).JoinStatus(ctx, req)
		})
}

func (s *Service) joinStatus(ctx context.Context, req *chainfirev1.JoinStatusRequest) (*chainfirev1.JoinStatusResponse, error) {
	id := req.GetMemberId()
	rec := s.b.State().Member(id)
	if rec == nil { // a new leader may not have applied the reservation yet
		if err := s.b.Barrier(ctx); err != nil {
			return nil, err
		}
		rec = s.b.State().Member(id)
	}
	if rec == nil {
		return nil, fault.Newf(fault.Usage, "join status", "member %s is not known", ident.FormatID(id))
	}
	rs, err := s.b.Raft(ctx)
	if err != nil {
		return nil, err
	}
	last, err := s.b.Log().LastIndex()
	if err != nil {
		return nil, err
	}
	out := &chainfirev1.JoinStatusResponse{Member: memberOf(rec), LastIndex: last, ProgressState: "none", SecondsSinceContact: -1}
	if p, ok := rs.Progress[id]; ok {
		out.Match, out.ProgressState = p.Match, p.State
		out.SecondsSinceContact = p.SinceContact.Seconds()
	}
	if req.GetSent() {
		if sent := s.sentTo(ctx, rec, rs); sent != nil {
			out.EntriesSent, out.RaftSnapshotsSent = &sent.Entries, &sent.Snapshots
		}
	}
	return out, nil
}
