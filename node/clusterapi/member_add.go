package clusterapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// probePatience is how long MemberAdd waits for somebody at the peer URL
// before it says that nobody is there; nothing has changed by then.
const probePatience = 3 * time.Second

// MemberAdd brings in the node that waits at the peer URL. The newcomer runs
// the phases itself and streams them; when this call ends early the join goes
// on, and calling again with the same name follows it.
func (s *Service) MemberAdd(req *chainfirev1.MemberAddRequest, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	ctx := out.Context()
	if err := checkPeerURLs("member add", req.GetPeerUrls()); err != nil {
		return err
	}
	if req.GetNoSeed() {
		return s.addUnseeded(ctx, req, out)
	}
	began := time.Now()
	if err := sendPhase(out, "reserve"); err != nil {
		return err
	}
	conn, probe, err := s.findNewcomer(ctx, req)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is buffered on our side
	if err := checkNewcomer(req, probe); err != nil {
		return err
	}
	if probe.GetState() == "member" {
		return s.memberAlready(req, probe, out)
	}
	rec, err := s.reserve(ctx, &entryv1.ReserveMember{Name: cmp.Or(req.GetName(), probe.GetName()), PeerUrls: req.GetPeerUrls(),
		StayLearner: req.GetLearner(), DirectoryNonce: probe.GetDirectoryNonce()})
	if err != nil {
		return err
	}
	reserved := &chainfirev1.Phase{Name: "reserve", Seconds: time.Since(began).Seconds()}
	result, err := s.invite(ctx, conn, req, rec, out)
	if err != nil {
		return err
	}
	result.Phases = append([]*chainfirev1.Phase{reserved}, slices.DeleteFunc(result.GetPhases(),
		func(p *chainfirev1.Phase) bool { return p.GetName() == "reserve" })...)
	return out.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: result}})
}

// checkPeerURLs refuses what no member could dial.
func checkPeerURLs(op string, urls []string) error {
	if len(urls) == 0 {
		return fault.Newf(fault.Usage, op, "a peer URL is needed").WithHint("--peer-urls http://HOST:PORT")
	}
	for _, u := range urls {
		if _, err := netsec.ParseURL(u); err != nil {
			return fault.New(fault.Usage, op, err)
		}
	}
	return nil
}

// checkNewcomer holds the answer of the waiting node against the request.
func checkNewcomer(req *chainfirev1.MemberAddRequest, probe *chainfirev1.ProbeResponse) error {
	if req.GetName() != "" && probe.GetName() != "" && probe.GetName() != req.GetName() {
		return fault.Newf(fault.Refused, "member add", "the node at %s is named %q", req.GetPeerUrls()[0], probe.GetName()).
			WithHint("cfseed member add %s --peer-urls %s", probe.GetName(), req.GetPeerUrls()[0])
	}
	return nil
}

// memberAlready answers for a node that waits for nobody: a join that has gone
// through is told again, a member of another cluster is refused. Nothing is
// proposed for either.
func (s *Service) memberAlready(req *chainfirev1.MemberAddRequest, probe *chainfirev1.ProbeResponse,
	out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	for _, rec := range s.b.State().Members() {
		if nonce := probe.GetDirectoryNonce(); len(nonce) == 0 || !bytes.Equal(rec.GetDirectoryNonce(), nonce) {
			continue
		}
		if rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
			return out.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: &chainfirev1.MemberAddResult{
				MemberId: rec.GetId(), Name: rec.GetName(), Role: memberOf(rec).GetRole(), ClusterId: s.b.State().Cluster().GetClusterId(),
				AlreadyMember: true}}})
		}
	}
	return fault.Newf(fault.Refused, "member add", "the node at %s is a member already, and not of this cluster", req.GetPeerUrls()[0]).
		WithHint("start a new node with an empty directory and --await-seed; nothing has been changed")
}

func sendPhase(out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse], name string) error {
	return out.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Phase{
		Phase: &chainfirev1.PhaseStarted{Name: name}}})
}

func (s *Service) addUnseeded(ctx context.Context, req *chainfirev1.MemberAddRequest, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	began := time.Now()
	if err := sendPhase(out, "reserve"); err != nil {
		return err
	}
	rec, err := s.reserve(ctx, &entryv1.ReserveMember{Name: req.GetName(), PeerUrls: req.GetPeerUrls(), StayLearner: req.GetLearner()})
	if err != nil {
		return err
	}
	return out.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: &chainfirev1.MemberAddResult{
		MemberId: rec.GetId(), Name: rec.GetName(), Role: memberOf(rec).GetRole(),
		ClusterId: s.b.State().Cluster().GetClusterId(), BytesWire: proto.Uint64(0), BytesReused: proto.Uint64(0),
		Phases: []*chainfirev1.Phase{{Name: "reserve", Seconds: time.Since(began).Seconds()}}}}})
}

// findNewcomer asks who waits at the peer URLs.
func (s *Service) findNewcomer(ctx context.Context, req *chainfirev1.MemberAddRequest) (*grpc.ClientConn, *chainfirev1.ProbeResponse, error) {
	c := s.b.State().Cluster()
	if c == nil {
		return nil, nil, fault.Newf(fault.Unreachable, "member add", "the cluster has no leader yet")
	}
	probe := &chainfirev1.ProbeRequest{ClusterId: c.GetClusterId(), GenesisNonce: c.GetGenesisNonce(), JoinToken: req.GetJoinToken()}
	var errs []error
	for _, url := range req.GetPeerUrls() {
		conn, err := s.b.Dial(ctx, url)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pctx, cancel := context.WithTimeout(ctx, probePatience)
		res, err := chainfirev1.NewAwaitClient(conn).Probe(pctx, probe, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return conn, res, nil
		}
		errs = append(errs, err, conn.Close())
		if f := rpcfault.FromStatus("member add", err); fault.Is(f, fault.Refused) || fault.Is(f, fault.Permission) {
			return nil, nil, f
		}
	}
	name := req.GetName()
	if name == "" {
		name = "NAME"
	}
	return nil, nil, fault.Newf(fault.Unreachable, "member add", "nobody answers at %s: %w", req.GetPeerUrls()[0], errors.Join(errs...)).
		WithHint("on that machine: cfseed node --name %s --await-seed --cluster-id %s --listen-peer-urls %s --initial-advertise-peer-urls %s; nothing has been changed",
			name, ident.FormatID(c.GetClusterId()), req.GetPeerUrls()[0], req.GetPeerUrls()[0])
}

// invite tells the newcomer to join and relays what it says.
func (s *Service) invite(ctx context.Context, conn *grpc.ClientConn, req *chainfirev1.MemberAddRequest,
	rec *entryv1.MemberRecord, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) (*chainfirev1.MemberAddResult, error) {
	c := s.b.State().Cluster()
	stream, err := chainfirev1.NewAwaitClient(conn).Join(ctx, &chainfirev1.JoinRequest{
		ClusterId: c.GetClusterId(), GenesisNonce: c.GetGenesisNonce(), JoinToken: req.GetJoinToken(),
		Name: rec.GetName(), MemberId: rec.GetId(), Learner: req.GetLearner(), Endpoints: s.endpoints(),
		RateLimit: req.GetRateLimit(), Compression: req.GetCompression(), Parallel: req.GetParallel(), PeerUrls: req.GetPeerUrls()})
	if err != nil {
		return nil, rpcfault.FromStatus("member add", err)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, fault.Newf(fault.Internal, "member add", "the newcomer's answer ended without a result")
		}
		if err != nil {
			return nil, rpcfault.FromStatus("member add", fmt.Errorf("newcomer: %w", err))
		}
		if res := msg.GetResult(); res != nil {
			return res, nil
		}
		if msg.GetPhase().GetName() == "reserve" {
			continue // said already
		}
		if err := out.Send(msg); err != nil {
			return nil, err
		}
	}
}

// endpoints lists members' peer URLs for a newcomer: this member first, for it
// has proved that it reaches the newcomer, then the others.
func (s *Service) endpoints() []string {
	var own, others []string
	for _, m := range s.b.State().Members() {
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || m.GetLearner() {
			continue
		}
		if m.GetId() == s.b.Self() {
			own = append(own, m.GetPeerUrls()...)
		} else {
			others = append(others, m.GetPeerUrls()...)
		}
	}
	return append(own, others...)
}
