package node

import (
	"context"
	"errors"
	"os"
	"strings"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node/join"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/transfer"
)

// invitation is what a join starts from: flags, or a call of MemberAdd.
type invitation struct {
	endpoints   []string
	clients     bool // endpoints are client addresses, else members'
	learner     bool
	reserved    uint64
	cluster     ident.Cluster
	name        string
	rateLimit   int64
	compression string
	parallel    int
	say         func(*chainfirev1.MemberAddResponse) // progress for who follows; may be nil
}

// waitAndJoin waits at the peer URL until somebody invites this node, or
// pushes a seed and then invites it.
func (n *node) waitAndJoin(ctx context.Context) error {
	if err := n.rememberNonce(); err != nil {
		return err
	}
	n.await = join.NewAwait(join.AwaitConfig{Name: n.cfg.Name, Directory: func() ident.Nonce { return n.nonce },
		Token: n.cfg.JoinToken, ClusterID: n.cfg.ClusterID, FreeBytes: n.dir.FreeSpace,
		Receive: func(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
			return n.receive(stream)
		}})
	srv, err := n.newServer(n.cfg.ListenPeer, n.cfg.PeerTLS)
	if err != nil {
		return err
	}
	chainfirev1.RegisterAwaitServer(srv, n.await)
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- n.fronts.peer.serve(serving, srv) }()
	defer func() { stop(); <-served }()
	n.cfg.Ready("waiting for seed peer=" + strings.Join(n.cfg.AdvertisePeer, ","))
	for {
		req, err := n.await.Invitation(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		genesis, err := ident.NonceFrom(req.GetGenesisNonce())
		if err != nil {
			n.await.Finish(fault.New(fault.Usage, "join", err))
			continue
		}
		err = n.joinAndRun(ctx, &invitation{endpoints: req.GetEndpoints(), learner: req.GetLearner(), reserved: req.GetMemberId(),
			cluster: ident.Cluster{ID: req.GetClusterId(), Genesis: genesis}, name: req.GetName(), rateLimit: int64(req.GetRateLimit()),
			compression: req.GetCompression(), parallel: int(req.GetParallel()), say: n.await.Say})
		var early *prepareError
		if !errors.As(err, &early) {
			return err // the member has run
		}
		n.logger.WarnContext(ctx, "join failed; waiting again", "err", err)
		n.await.Finish(early.err)
	}
}

// prepareError is the end of a join before the member ran: nothing is lost by
// waiting for the next invitation.
type prepareError struct{ err error }

func (e *prepareError) Error() string { return e.err.Error() }
func (e *prepareError) Unwrap() error { return e.err }

// rememberNonce finds the directory's nonce, or makes one that survives until
// the identity is committed, so that a retry is known as the same newcomer.
func (n *node) rememberNonce() error {
	id, err := n.dir.ReadIdentity()
	if err == nil {
		n.nonce = id.Directory
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n.nonce, err = join.DirectoryNonce(n.dir, n.cfg.Rand)
	return err
}

// joinAndRun runs the phases of a join around the start of the member.
func (n *node) joinAndRun(ctx context.Context, inv *invitation) error {
	if err := n.rememberNonce(); err != nil {
		return err
	}
	j := join.New(n.joinConfig(inv))
	defer j.Close() //nolint:errcheck // idle connections
	for again := false; ; again = true {
		out, err := n.prepare(ctx, j)
		if err != nil {
			return &prepareError{err}
		}
		err = n.runMember(ctx, out.Identity, func(ctx context.Context) error { return n.finishJoin(ctx, j, inv, out) })
		// Whoever follows a join from outside has been told that it failed.
		if again || n.await != nil || !join.TooOld(err) {
			return err
		}
	}
}

// prepare seeds and binds. A seed that came earlier and is too old by now is
// taken back and a newer one fetched.
func (n *node) prepare(ctx context.Context, j *join.Newcomer) (*join.Outcome, error) {
	out, err := j.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.Bind(ctx, out.Identity); err != nil {
		return nil, err
	}
	return out, nil
}

// finishJoin runs beside the member: admission, catch-up, promotion.
func (n *node) finishJoin(ctx context.Context, j *join.Newcomer, inv *invitation, out *join.Outcome) error {
	res, err := j.Admit(ctx, out.Identity)
	if err != nil {
		return n.joinFailed(err)
	}
	st, err := j.CatchUp(ctx, out.Identity.MemberID)
	if err != nil {
		return n.joinFailed(err)
	}
	if inv.say != nil {
		inv.say(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: resultOf(out, j, st, res)}})
	}
	if n.await != nil {
		n.await.Finish(nil)
	}
	for _, p := range j.Phases() {
		n.metrics.phases.WithLabelValues(p.GetName()).Set(p.GetSeconds())
	}
	n.logger.InfoContext(ctx, "joined", "member", ident.FormatID(out.Identity.MemberID), "role", st.GetMember().GetRole(),
		"entries_after_add", res.GetEntriesAfterAdd(), "raft_snapshots", st.GetRaftSnapshotsSent())
	return nil
}

func (n *node) joinFailed(err error) error {
	if n.await != nil {
		n.await.Finish(err)
	}
	return err
}

func resultOf(out *join.Outcome, j *join.Newcomer, st *chainfirev1.JoinStatusResponse, res *chainfirev1.AdmitResponse) *chainfirev1.MemberAddResult {
	id := out.Identity
	return &chainfirev1.MemberAddResult{MemberId: id.MemberID, Name: st.GetMember().GetName(), Role: st.GetMember().GetRole(),
		ClusterId: id.Cluster.ID, Position: join.PositionOf(id.Seed.Position), Phases: j.Phases(),
		BytesTotal: uint64(out.Result.BytesTotal), BytesWire: uint64(out.Result.BytesWire), BytesReused: uint64(out.Result.BytesReused),
		EntriesAfterAdd: res.GetEntriesAfterAdd(), RaftSnapshotsSent: st.GetRaftSnapshotsSent()}
}

func (n *node) joinConfig(inv *invitation) join.Config {
	files := n.cfg.PeerTLS
	if inv.clients && n.cfg.ClientTLS.CA != "" {
		files = n.cfg.ClientTLS
	}
	cfg := join.Config{Dir: n.dir, Directory: n.nonce, Name: n.cfg.Name, PeerURLs: n.cfg.AdvertisePeer, Endpoints: inv.endpoints,
		Learner: inv.learner, Reserved: inv.reserved, Cluster: inv.cluster, Dial: dialer(files), DialSeed: seedDialer(files),
		Parallel: n.cfg.Parallel, RateLimit: n.cfg.RateLimit, Compression: n.cfg.Compression,
		LeaseTTL: n.cfg.LeaseTTL, LeaseBytes: n.cfg.LeaseBytes, IdleTimeout: defaultIdleTimeout, Logger: n.logger}
	if inv.rateLimit > 0 {
		cfg.RateLimit = inv.rateLimit
	}
	if inv.compression != "" {
		cfg.Compression = inv.compression
	}
	if inv.parallel > 0 {
		cfg.Parallel = inv.parallel
	}
	cfg.Started = func(phase string) {
		n.logger.Info("join", "phase", phase)
		if inv.say != nil {
			inv.say(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Phase{Phase: &chainfirev1.PhaseStarted{Name: phase}}})
		}
	}
	cfg.Moved = func(p transfer.Progress) {
		if inv.say != nil {
			inv.say(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{Transfer: &chainfirev1.TransferProgress{
				BytesDone: uint64(p.BytesDone), BytesTotal: uint64(p.BytesTotal), BytesWire: uint64(p.BytesWire), BytesPerSecond: p.Rate}}})
		}
	}
	return cfg
}

var _ = datadir.Complete
