// Package join is the newcomer's side of a join: the phases that turn an empty
// data directory into a caught-up member.
//
//	reserve   the cluster lists the newcomer and gives it an ID
//	seed      a snapshot of a running member is streamed into staging/
//	verify    all of it is read back, then installed; identity commits it
//	admit     the ID is bound to the directory, what was written meanwhile fetched,
//	          the ticket checked, the learner added
//	catch_up  the leader's log closes the gap
//	promote   the learner becomes a voter (unless it stays a learner)
//
// Prepare runs the first three and needs no Raft; Bind comes before the node's
// Raft first starts, as does FetchTail, which brings the entries written since
// the seed; Admit and CatchUp come after (safety rules S1, S4 and S6 of
// ARCHITECTURE.md). Every phase may be run again: the reservation is found by
// name and directory nonce, the stage resumes, and an admission that went
// through answers as it did the first time. A seed that came earlier and is too
// old by now is taken back and a newer one fetched, of which the files that
// both have are there already. Clean-up of a join that is given up belongs to
// the cluster, not to this package.
package join

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// Phase names, in order.
const (
	PhaseReserve = "reserve"
	PhaseSeed    = "seed"
	PhaseVerify  = "verify"
	PhaseAdmit   = "admit"
	PhaseCatchUp = "catch_up"
	PhasePromote = "promote"
)

// Dialer opens a connection to a member; the caller closes it.
type Dialer func(ctx context.Context, endpoint string) (*grpc.ClientConn, error)

// Config is what a newcomer knows of itself and of the cluster it joins.
type Config struct {
	Dir       *datadir.Dir
	Directory ident.Nonce // the nonce this directory will keep
	Name      string
	PeerURLs  []string
	Endpoints []string      // members' client or peer addresses, preferred first
	Learner   bool          // stay a learner
	Reserved  uint64        // reservation made for us; 0 = make one
	Cluster   ident.Cluster // zero = whatever cluster answers
	Base      string        // data directory of a former member whose files or records may be used; "" = none
	DeltaBy   string        // how: DeltaAuto, DeltaFiles or DeltaRanges; "" = DeltaAuto
	// SourceURLs are the addresses at which the newcomer reaches a member, so that
	// the cluster may say which one it seeds from; nil = from Endpoints, as ordered.
	SourceURLs func(m *chainfirev1.Member) []string

	Dial        Dialer
	DialSeed    transfer.DialFunc
	DialChannel transfer.DialChannelFunc // nil: chunks come in streams
	Parallel    int
	RateLimit   int64 // bytes per second; 0 = none
	Compression string
	IdleTimeout time.Duration // no progress for this long ends a step
	LeaseTTL    time.Duration
	LeaseBytes  uint64

	Logger  *slog.Logger
	Started func(phase string)        // also, now and then, while a phase lasts; may be nil
	Moved   func(p transfer.Progress) // may be nil
	// Foreseen hears, while the seed is fetched, how that will end; from another
	// goroutine than Moved; may be nil.
	Foreseen func(*chainfirev1.Forecast)
	// Queued hears, now and then, that the source has no slot yet for this seed;
	// may be nil.
	Queued func(*chainfirev1.SeedQueue)
	Now    func() time.Time
}

// Outcome is what Prepare achieved.
type Outcome struct {
	Identity        datadir.Identity
	Result          transfer.PullResult // zero when AlreadyComplete
	Revision        int64
	AlreadyComplete bool
	Delta           string // how a base was used: DeltaFiles or DeltaRanges; "" = there was none
	Reserved        *chainfirev1.ReserveResponse
}

// Newcomer runs the phases. It is used by one goroutine.
type Newcomer struct {
	cfg     Config
	cluster *client
	phases  []*chainfirev1.Phase
	began   time.Time
	current string
	stale   [32]byte // root of the seed that the cluster found too old
	letGo   func()   // ends the renewal of the seed's lease; nil: none is renewed

	tailEnd     ident.Position // of the log, with what was fetched after the seed; zero: as the seed left it
	tailEntries uint64
}

// New returns a newcomer; nothing happens before Prepare.
func New(cfg Config) *Newcomer {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Newcomer{cfg: cfg, cluster: newClient(cfg.Dial, cfg.Endpoints)}
}

// Close ends the renewal of the lease and releases the connections.
func (n *Newcomer) Close() error {
	n.dropLease()
	return n.cluster.Close()
}

// Phases gives the finished phases with their durations.
func (n *Newcomer) Phases() []*chainfirev1.Phase { n.finishPhase(); return n.phases }

func (n *Newcomer) startPhase(name string) {
	n.finishPhase()
	n.current, n.began = name, n.cfg.Now()
	if n.cfg.Started != nil {
		n.cfg.Started(name)
	}
}

func (n *Newcomer) finishPhase() {
	if n.current == "" {
		return
	}
	n.phases = append(n.phases, &chainfirev1.Phase{Name: n.current, Seconds: n.cfg.Now().Sub(n.began).Seconds()})
	n.current = ""
}

// Prepare reserves, seeds, verifies and installs. A directory that already
// holds a complete seed is left as it is, unless that is too old. The caller
// holds the directory's lock.
func (n *Newcomer) Prepare(ctx context.Context) (*Outcome, error) {
	have, err := n.cfg.Dir.ReadIdentity()
	switch {
	case err == nil && have.Seed == nil:
		return nil, fault.Newf(fault.Refused, "join", "the directory already holds a member").
			At(n.cfg.Dir.Path()).WithHint("start it without --join, or give the newcomer an empty directory")
	case err == nil:
		return n.complete(ctx, have)
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	n.startPhase(PhaseReserve)
	res, err := n.reserve(ctx)
	if err != nil {
		return nil, err
	}
	if res.GetAlreadyMember() {
		return nil, fault.Newf(fault.Refused, "join", "member %s is in the cluster already, but its directory is gone",
			ident.FormatID(res.GetMemberId())).
			WithHint("remove it with `cfseed member remove %s`, then join under a new ID", ident.FormatID(res.GetMemberId()))
	}
	return n.seed(ctx, res)
}

// complete is the case of a directory that was seeded before, by pull or push.
func (n *Newcomer) complete(ctx context.Context, id datadir.Identity) (*Outcome, error) {
	out := &Outcome{Identity: id, AlreadyComplete: true}
	if n.cfg.Cluster != (ident.Cluster{}) && !n.cfg.Cluster.Same(id.Cluster) {
		return nil, fault.Newf(fault.Refused, "join", "the seed is of cluster %s", ident.FormatID(id.Cluster.ID)).
			At(n.cfg.Dir.Path()).WithHint("give the newcomer an empty directory")
	}
	if m, err := snapshot.InstalledManifest(n.cfg.Dir); err == nil { // only told, never relied on
		out.Revision = m.Revision
		out.Result.BytesTotal, out.Result.BytesReused = m.TotalBytes(), m.TotalBytes()
	}
	n.cfg.Cluster, n.cfg.Directory = id.Cluster, id.Directory
	if id.MemberID != 0 {
		n.cfg.Name = id.Name // the reservation's; a new name is published later
	}
	n.startPhase(PhaseReserve)
	res, err := n.reserve(ctx)
	if err != nil {
		return nil, err
	}
	out.Reserved = res
	why, err := n.outdated(ctx, id, res)
	if err != nil {
		return nil, err
	}
	if why != nil {
		return n.reseed(ctx, id, res, why)
	}
	n.holdLease(ctx, id.Seed.LeaseID)
	if id.MemberID == 0 {
		id.MemberID = res.GetMemberId()
		if n.cfg.Name != "" {
			id.Name = n.cfg.Name
		}
		if err := n.cfg.Dir.CommitIdentity(id); err != nil {
			return nil, err
		}
		out.Identity = id
	}
	return out, nil
}

func (n *Newcomer) reserve(ctx context.Context) (*chainfirev1.ReserveResponse, error) {
	if err := n.confirmCluster(ctx); err != nil {
		return nil, err
	}
	req := &chainfirev1.ReserveRequest{
		Name: n.cfg.Name, PeerUrls: n.cfg.PeerURLs, StayLearner: n.cfg.Learner,
		DirectoryNonce: n.cfg.Directory.Bytes(),
	}
	var res *chainfirev1.ReserveResponse
	err := n.cluster.call(ctx, "reserve", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		res, err = chainfirev1.NewAdmissionClient(c).Reserve(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := n.expect(res.GetClusterId(), res.GetGenesisNonce()); err != nil {
		return nil, err
	}
	if n.cfg.Reserved != 0 && n.cfg.Reserved != res.GetMemberId() {
		return nil, fault.Newf(fault.Refused, "reserve", "reservation %s was replaced by %s",
			ident.FormatID(n.cfg.Reserved), ident.FormatID(res.GetMemberId()))
	}
	n.cluster.learn(res.GetMembers())
	return res, nil
}

// Bind ties the member ID to the directory; it must be through before Raft
// first starts there (S4).
func (n *Newcomer) Bind(ctx context.Context, id datadir.Identity) error {
	n.startPhase(PhaseAdmit)
	req := &chainfirev1.BindRequest{ClusterId: id.Cluster.ID, GenesisNonce: id.Cluster.Genesis.Bytes(),
		MemberId: id.MemberID, DirectoryNonce: id.Directory.Bytes()}
	return n.cluster.call(ctx, "bind", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := chainfirev1.NewAdmissionClient(c).Bind(ctx, req)
		return err
	})
}

// Admit brings the ticket; it returns when the learner is part of the
// configuration. Reseed and LeaseLost mean the seed is too old.
func (n *Newcomer) Admit(ctx context.Context, id datadir.Identity) (*chainfirev1.AdmitResponse, error) {
	if id.Seed == nil {
		return nil, fault.Newf(fault.Internal, "admit", "a directory without a seed has no ticket")
	}
	req := &chainfirev1.AdmitRequest{Ticket: ticketOf(id)}
	if n.tailEnd.Index > id.Seed.Position.Index { // that is what the log has to fit
		req.Ticket.Position = PositionOf(n.tailEnd)
	}
	var res *chainfirev1.AdmitResponse
	queued := true
	var err error
	for queued {
		err = n.cluster.call(ctx, "admit", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
			res, err = chainfirev1.NewAdmissionClient(c).Admit(ctx, req)
			return err
		})
		if queued = fault.Is(err, fault.InUse); queued { // others are admitted first; somebody answers
			n.say()
			if err := sleep(ctx, retryPause); err != nil {
				return nil, err
			}
		}
	}
	n.dropLease() // from now on it is the member's, and the leader ends it
	if TooOld(err) {
		n.stale = id.Seed.ManifestRoot
	}
	return res, err
}

// CatchUp waits until the leader sees the newcomer caught up and, unless it
// stays a learner, promoted. The match index must rise within IdleTimeout.
func (n *Newcomer) CatchUp(ctx context.Context, id uint64) (*chainfirev1.JoinStatusResponse, error) {
	n.startPhase(PhaseCatchUp)
	watch, told := newWatchdog(n.cfg.IdleTimeout, n.cfg.Now), n.cfg.Now()
	for {
		st, err := n.joinStatus(ctx, id)
		if err != nil {
			return nil, err
		}
		m := st.GetMember()
		caughtUp := st.GetProgressState() == "replicate" && st.GetLastIndex()-min(st.GetMatch(), st.GetLastIndex()) <= 64
		switch {
		case m.GetState() == "removed":
			return nil, fault.Newf(fault.Refused, "catch up", "member %s was removed while it joined", ident.FormatID(id))
		case m.GetRole() == "voter":
			return st, nil
		case caughtUp && (n.cfg.Learner || m.GetStayLearner()): // whoever reserved may know more than our flags
			return st, nil
		case caughtUp && n.current == PhaseCatchUp:
			n.startPhase(PhasePromote)
			watch.reset()
		}
		if err := watch.check(st); err != nil {
			return st, err
		}
		if n.cfg.Now().Sub(told) >= sayEvery {
			told = n.cfg.Now()
			n.say()
		}
		if err := sleep(ctx, 25*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (n *Newcomer) joinStatus(ctx context.Context, id uint64) (*chainfirev1.JoinStatusResponse, error) {
	return n.askJoinStatus(ctx, n.cfg.IdleTimeout, &chainfirev1.JoinStatusRequest{MemberId: id})
}

func (n *Newcomer) askJoinStatus(ctx context.Context, patience time.Duration, req *chainfirev1.JoinStatusRequest) (*chainfirev1.JoinStatusResponse, error) {
	var st *chainfirev1.JoinStatusResponse
	err := n.cluster.call(ctx, "join status", patience, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		st, err = chainfirev1.NewAdmissionClient(c).JoinStatus(ctx, req)
		return err
	})
	return st, err
}

// sentPatience bounds Sent: the join has gone through, whatever it took.
const sentPatience = 5 * time.Second

// Sent asks what the members have sent to the newcomer since it was added: log
// entries and Raft snapshots. Nil is not known. It ends the last phase.
func (n *Newcomer) Sent(ctx context.Context, id uint64) (entries, snapshots *uint64) {
	n.finishPhase()
	st, err := n.askJoinStatus(ctx, min(sentPatience, n.cfg.IdleTimeout), &chainfirev1.JoinStatusRequest{MemberId: id, Sent: true})
	if err != nil {
		if n.cfg.Logger != nil {
			n.cfg.Logger.Warn("what was sent to the newcomer is not known", "err", err)
		}
		return nil, nil
	}
	return st.EntriesSent, st.RaftSnapshotsSent
}

var _ io.Closer = (*Newcomer)(nil)

// describe names the three ways in which a learner stays behind.
func describe(st *chainfirev1.JoinStatusResponse) string {
	reason, contact := "not_progressing", fmt.Sprintf("last contact %.1f s ago", st.GetSecondsSinceContact())
	switch {
	case st.GetSecondsSinceContact() < 0:
		reason, contact = "never_contacted", "no contact yet"
	case st.GetMatch() == 0:
		reason = "contacted_not_initialised"
	}
	return fmt.Sprintf("%s (match %d of %d, state %s, %s)", reason, st.GetMatch(), st.GetLastIndex(), st.GetProgressState(), contact)
}
