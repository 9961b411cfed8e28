package node

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/node/join"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/transfer"
)

// invitation is what a join starts from: flags, or a call of MemberAdd.
type invitation struct {
	endpoints   []string
	clients     bool // endpoints are client addresses, else members'
	learner     bool
	reserved    uint64
	cluster     ident.Cluster
	peerURLs    []string // where it was found; used when it does not know itself
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
	nonce := n.nonce
	n.await = join.NewAwait(join.AwaitConfig{Name: n.cfg.Name, Directory: func() ident.Nonce { return nonce },
		Token: n.cfg.JoinToken, ClusterID: n.cfg.ClusterID, FreeBytes: n.dir.FreeSpace, Receive: n.receive})
	srv, err := n.newServer(n.cfg.ListenPeer, n.cfg.PeerTLS)
	if err != nil {
		return err
	}
	chainfirev1.RegisterAwaitServer(srv, n.await)
	room := n.fronts.peer.take()
	g, gctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(gctx)
	g.Go(func() error { return room.serve(serving, srv) })
	g.Go(func() error {
		defer stop()
		return n.joinWhenInvited(gctx)
	})
	return g.Wait()
}

// checkInvitation refuses to wait for just anybody where security is on (S11): a
// certificate says that a member is trusted, not which cluster it is of. A
// member ignores --await-seed, so that one command line starts and restarts it.
func (n *node) checkInvitation(class datadir.Class) error {
	if !n.cfg.AwaitSeed || n.cfg.JoinToken != "" || n.cfg.ClusterID != 0 || !n.cfg.secure() {
		return nil
	}
	if class == datadir.Complete {
		id, err := n.dir.ReadIdentity()
		if err != nil || id.Seed == nil || id.Seed.Joined {
			return nil // a damaged one is told later
		}
	}
	return fault.Newf(fault.Usage, "node", "--await-seed with TLS on --listen-peer-urls needs --join-token or --cluster-id").
		WithHint("give --cluster-id ID, which `cfseed member list` shows, or --join-token TOKEN, which `cfseed member token %s` makes", n.cfg.Name)
}

// joinWhenInvited takes one invitation after the other, until a join has gone
// through and the member has run.
func (n *node) joinWhenInvited(ctx context.Context) error {
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
			cluster: ident.Cluster{ID: req.GetClusterId(), Genesis: genesis}, peerURLs: req.GetPeerUrls(), rateLimit: int64(min(req.GetRateLimit(), math.MaxInt64)),
			compression: req.GetCompression(), parallel: int(min(req.GetParallel(), maxParallel)), say: n.await.Say})
		early, ok := sole(err).(*earlyError)
		if !ok {
			return err // the member has run
		}
		n.logger.WarnContext(ctx, "join failed; waiting again", "err", err)
		n.await.Finish(early.err)
	}
}

// maxParallel bounds the streams that an invitation can ask for.
const maxParallel = 64

// earlyError is the end of a join before the admission: the cluster counts this
// node as nothing yet, so it may as well wait for the next invitation.
type earlyError struct{ err error }

func (e *earlyError) Error() string { return e.err.Error() }
func (e *earlyError) Unwrap() error { return e.err }

// sole takes off what errors.Join put around a single error. A node whose
// stores could not be closed either does not go on as if they were.
func sole(err error) error {
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) != 1 {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

// rememberNonce finds the directory's nonce, or makes one that survives until
// the identity is committed, so that a retry is known as the same newcomer.
func (n *node) rememberNonce() error {
	if !n.nonce.IsZero() {
		return nil
	}
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
	if len(inv.peerURLs) > 0 && !n.fronts.reachable {
		n.cfg.AdvertisePeer = slices.Sorted(slices.Values(inv.peerURLs))
	}
	j := join.New(n.joinConfig(inv))
	defer j.Close() //nolint:errcheck // idle connections
	for again := false; ; again = true {
		out, err := n.prepare(ctx, j)
		if err != nil {
			return &earlyError{err}
		}
		err = n.runMember(ctx, out.Identity, company{
			before: func(ctx context.Context, log *raftlog.Log) error { return j.FetchTail(ctx, out, log) },
			beside: func(ctx context.Context) error { return n.finishJoin(ctx, j, inv, out) }})
		if early, ok := sole(err).(*earlyError); again || !ok || !join.TooOld(early.err) {
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
		return &earlyError{err}
	}
	st, err := n.catchUp(ctx, j, out.Identity.MemberID)
	if err != nil {
		return err
	}
	st.EntriesSent, st.RaftSnapshotsSent = j.Sent(ctx, out.Identity.MemberID)
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
		"entries_after_add", res.GetEntriesAfterAdd(), "entries_sent", known(st.EntriesSent), "raft_snapshots", known(st.RaftSnapshotsSent))
	return j.Close()
}

// catchUp waits for the end of the join. A node that was invited is a member
// from its admission on and stays one, whatever its followers were told: the
// leader goes on with it, or removes it.
func (n *node) catchUp(ctx context.Context, j *join.Newcomer, id uint64) (*chainfirev1.JoinStatusResponse, error) {
	for {
		st, err := j.CatchUp(ctx, id)
		slow := fault.Is(err, fault.Timeout) || fault.Is(err, fault.Unreachable) || fault.Is(err, fault.NotLeader)
		if err == nil || n.await == nil || ctx.Err() != nil || !slow {
			return st, err
		}
		n.logger.WarnContext(ctx, "the join is stuck; the member goes on", "err", err)
		n.await.Stuck(err)
	}
}

func resultOf(out *join.Outcome, j *join.Newcomer, st *chainfirev1.JoinStatusResponse, res *chainfirev1.AdmitResponse) *chainfirev1.MemberAddResult {
	id := out.Identity
	result := &chainfirev1.MemberAddResult{MemberId: id.MemberID, Name: st.GetMember().GetName(), Role: st.GetMember().GetRole(),
		ClusterId: id.Cluster.ID, Position: join.PositionOf(id.Seed.Position), Phases: j.Phases(),
		BytesWire: proto.Uint64(out.Result.BytesWire), EntriesAfterAdd: proto.Uint64(res.GetEntriesAfterAdd()),
		EntriesSent: st.EntriesSent, RaftSnapshotsSent: st.RaftSnapshotsSent, TailEntries: proto.Uint64(j.TailEntries()),
		SourceId: out.Result.Meta.SourceID}
	if out.Result.BytesTotal > 0 { // else it came earlier and nothing tells its size any more
		result.BytesTotal, result.BytesReused = proto.Uint64(out.Result.BytesTotal), proto.Uint64(out.Result.BytesReused)
	}
	return result
}

// known is a count as it is logged.
func known(count *uint64) any {
	if count == nil {
		return "unknown"
	}
	return *count
}

func (n *node) joinConfig(inv *invitation) join.Config {
	// Addresses that are learned on the way are the members' client addresses.
	files := func(endpoint string) netsec.Files {
		if n.cfg.ClientTLS.CA == "" || !inv.clients && slices.Contains(inv.endpoints, endpoint) {
			return n.cfg.PeerTLS
		}
		return n.cfg.ClientTLS
	}
	cfg := join.Config{Dir: n.dir, Directory: n.nonce, Name: n.cfg.Name, PeerURLs: n.cfg.AdvertisePeer, Endpoints: inv.endpoints,
		Learner: inv.learner, Reserved: inv.reserved, Cluster: inv.cluster,
		Dial: dialer(files, n.cfg.User), DialSeed: seedDialer(files, n.cfg.User), DialChannel: channelDialer(files),
		Parallel: n.cfg.Parallel, RateLimit: n.cfg.RateLimit, Compression: n.cfg.Compression,
		LeaseTTL: n.cfg.LeaseTTL, LeaseBytes: n.cfg.LeaseBytes, IdleTimeout: defaultIdleTimeout, Logger: n.logger}
	cfg.SourceURLs = (*chainfirev1.Member).GetPeerUrls
	if inv.clients {
		cfg.SourceURLs = (*chainfirev1.Member).GetClientUrls
	}
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
	if inv.say != nil {
		cfg.Moved, cfg.Foreseen, cfg.Queued = tellers(inv.say)
	}
	return cfg
}

// tellers pass on how far a seed is, and with each the last forecast: of reports
// in a row a slow follower hears the last one only.
func tellers(say func(*chainfirev1.MemberAddResponse)) (moved func(transfer.Progress), foreseen func(*chainfirev1.Forecast),
	queued func(*chainfirev1.SeedQueue)) {
	var mu sync.Mutex
	told := &chainfirev1.TransferProgress{}
	tell := func(change func()) {
		mu.Lock()
		change()
		report := proto.CloneOf(told)
		mu.Unlock()
		say(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{Transfer: report}})
	}
	moved = func(p transfer.Progress) {
		tell(func() {
			told.BytesDone, told.BytesTotal, told.BytesWire, told.BytesPerSecond = p.BytesDone, p.BytesTotal, p.BytesWire, p.Rate
			told.Queue = nil
		})
	}
	foreseen = func(f *chainfirev1.Forecast) { tell(func() { told.Forecast = f }) }
	queued = func(q *chainfirev1.SeedQueue) { tell(func() { told.Queue = q }) }
	return moved, foreseen, queued
}
