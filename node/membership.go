package node

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/peer"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// membership keeps what hangs on the member table in step with it: the peers
// the transport talks to, the genesis nonce in the identity file, and what
// this member has said of itself.
type membership struct {
	identity  *identityBox
	state     *stateBox
	core      *core
	transport *peer.Transport
	logger    *slog.Logger
	name      string
	peerURLs  []string
	clientURL []string
	changed   chan struct{} // one token: the table may have changed
	gone      chan error    // one slot: a peer says we are removed
}

func newMembership() *membership {
	return &membership{changed: make(chan struct{}, 1), gone: make(chan error, 1)}
}

// applied looks at results on the apply worker; it must not block.
func (m *membership) applied(results []state.Result) {
	for _, r := range results {
		if r.Kind >= envelope.ClusterInit {
			m.poke()
			return
		}
	}
}

func (m *membership) poke() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *membership) removed(err error) {
	select {
	case m.gone <- err:
	default:
	}
}

// run follows the table until ctx ends. It fails when this member is removed:
// a removed member must not go on as if it were one.
func (m *membership) run(ctx context.Context) error {
	known := map[uint64]bool{}
	for {
		if err := m.refresh(known); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.gone:
			return err
		case <-m.changed:
		}
	}
}

func (m *membership) refresh(known map[uint64]bool) error {
	machine := m.state.machine()
	self := m.identity.get().MemberID
	if c := machine.Cluster(); c != nil {
		genesis, err := ident.NonceFrom(c.GetGenesisNonce())
		if err != nil {
			return fault.New(fault.Corrupt, "cluster record", err)
		}
		if err := m.identity.learnGenesis(genesis); err != nil {
			return err
		}
	}
	live := map[uint64]bool{}
	for _, r := range machine.Members() {
		switch {
		case r.GetId() == self && r.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED:
			return errRemoved(self)
		case r.GetId() == self:
			if err := m.joined(r); err != nil {
				return err
			}
		case r.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER: // nobody talks to a reservation
			live[r.GetId()] = true
			m.transport.SetPeer(r.GetId(), r.GetPeerUrls())
		}
	}
	for id := range known {
		if !live[id] {
			m.transport.RemovePeer(id)
			delete(known, id)
		}
	}
	for id := range live {
		known[id] = true
	}
	return nil
}

// joined marks the ticket of a seeded directory as used once the table says
// that this member is one.
func (m *membership) joined(r *entryv1.MemberRecord) error {
	id := m.identity.get()
	if id.Seed == nil || id.Seed.Joined || r.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
		return nil
	}
	return m.identity.update(func(id *datadir.Identity) { id.Seed.Joined = true })
}

func errRemoved(id uint64) error {
	return fault.New(fault.Refused, "node", peer.ErrRemoved).
		WithHint("member %s was removed from the cluster; an ID is never used again: start with an empty directory", ident.FormatID(id))
}

// publishPause is how long publish waits between attempts.
const publishPause = 250 * time.Millisecond

// publish binds this member's directory and tells the cluster its name and
// addresses, again until that is applied. Newest wins.
func (m *membership) publish(ctx context.Context) error {
	for {
		rec := m.state.machine().Member(m.identity.get().MemberID)
		isMember := rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER
		if isMember && m.state.machine().Cluster() != nil {
			done, err := m.publishOnce(ctx, rec)
			if done {
				return nil
			}
			if err != nil {
				m.logger.DebugContext(ctx, "publish will be tried again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishPause):
		}
	}
}

func (m *membership) publishOnce(ctx context.Context, rec *entryv1.MemberRecord) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	id := m.identity.get()
	if len(rec.GetDirectoryNonce()) == 0 {
		if _, err := m.core.Propose(ctx, envelope.BindMember,
			&entryv1.BindMember{Id: id.MemberID, DirectoryNonce: id.Directory.Bytes()}); err != nil {
			return false, err
		}
	}
	if rec.GetName() == m.name && slices.Equal(rec.GetClientUrls(), m.clientURL) {
		return true, nil
	}
	_, err := m.core.Propose(ctx, envelope.PublishMember,
		&entryv1.PublishMember{Id: id.MemberID, Name: m.name, ClientUrls: m.clientURL})
	return err == nil, err
}
