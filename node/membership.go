package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	tables "github.com/chainfire/cfseed/internal/state/member"
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
	peerURLs  []string // nil: the table knows them better
	listens   []string // where peers are served
	clientURL []string
	farewell  time.Duration // how long a removed member still answers
	changed   chan struct{} // one token: the table may have changed
	gone      chan error    // one slot: a peer says we are removed

	mu    sync.Mutex
	heard map[uint64]heardURLs
}

// heardURLs are what a peer said of itself; the table's win when they are newer.
type heardURLs struct {
	urls    []string
	version uint64 // of the table's URLs at that time
}

func newMembership() *membership {
	return &membership{changed: make(chan struct{}, 1), gone: make(chan error, 1), heard: map[uint64]heardURLs{}}
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
		err := m.refresh(known)
		if err == nil {
			select {
			case <-ctx.Done():
				return nil
			case err = <-m.gone:
			case <-m.changed:
				continue
			}
		}
		if errors.Is(err, peer.ErrRemoved) {
			// Whoever asked for it gets the answer, and the others hear from a removed
			// leader that the change is committed.
			wait(ctx, m.farewell)
		}
		return err
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
			m.transport.SetPeer(r.GetId(), m.urlsOf(r))
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

// learned hears a peer tell its present addresses. A member that comes back at
// another one is reached there at once; it can not get that into the table
// before it is reached.
func (m *membership) learned(id uint64, urls []string) {
	r := m.state.machine().Member(id)
	if len(urls) == 0 || r.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
		return
	}
	m.mu.Lock()
	m.heard[id] = heardURLs{urls: urls, version: r.GetUrlsVersion()}
	m.mu.Unlock()
	m.poke()
}

// urlsOf gives the newest URLs of a member.
func (m *membership) urlsOf(r *entryv1.MemberRecord) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.heard[r.GetId()]; ok && h.version >= r.GetUrlsVersion() {
		return h.urls
	}
	delete(m.heard, r.GetId())
	return r.GetPeerUrls()
}

// The pauses of publish between attempts.
const (
	publishPause    = 50 * time.Millisecond
	publishPauseMax = time.Second
)

// publish binds this member's directory and tells the cluster its name and
// addresses, again until that is applied. Newest wins. It fails when the ID
// turns out to belong to another directory (S4).
func (m *membership) publish(ctx context.Context) error {
	own := &entryv1.PublishMember{Id: m.identity.get().MemberID, Name: m.name, PeerUrls: m.peerURLs, ClientUrls: m.clientURL}
	for pause := publishPause; ; {
		rec := m.state.machine().Member(own.GetId())
		isMember := rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER
		if isMember && m.state.machine().Cluster() != nil {
			done, err := m.publishOnce(ctx, rec, own)
			if done && elsewhere(rec.GetPeerUrls(), own.GetPeerUrls(), m.listens) {
				m.logger.WarnContext(ctx, "the cluster knows this member at other peer URLs than it listens on",
					"known", rec.GetPeerUrls(), "listens", m.listens, "hint", "start it with --initial-advertise-peer-urls, or use cfseed member update")
			}
			if done || errors.Is(err, tables.ErrDirectory) {
				return err
			}
			if err != nil {
				m.logger.DebugContext(ctx, "publish will be tried again", "err", err)
				pause = min(2*pause, publishPauseMax)
			}
		}
		if !wait(ctx, pause) {
			return nil
		}
	}
}

// wait reports false when ctx ended before the time had passed.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (m *membership) publishOnce(ctx context.Context, rec *entryv1.MemberRecord, own *entryv1.PublishMember) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nonce := m.identity.get().Directory.Bytes()
	switch {
	case len(rec.GetDirectoryNonce()) == 0:
		if _, err := m.core.Propose(ctx, envelope.BindMember, &entryv1.BindMember{Id: own.GetId(), DirectoryNonce: nonce}); err != nil {
			return false, err
		}
	case !bytes.Equal(rec.GetDirectoryNonce(), nonce):
		return false, fault.New(fault.Refused, "node", tables.ErrDirectory).
			WithHint("remove member %s from the cluster and join with an empty directory", ident.FormatID(own.GetId()))
	}
	if published(rec, own) {
		return true, nil
	}
	_, err := m.core.Propose(ctx, envelope.PublishMember, own)
	switch {
	case errors.Is(err, tables.ErrNameExists):
		m.logger.WarnContext(ctx, "the name is another member's; the old one stays", "name", own.GetName(), "err", err)
		own.Name = ""
	case errors.Is(err, tables.ErrPeerURLExists):
		m.logger.WarnContext(ctx, "the peer URLs are another member's; the old ones stay", "urls", own.GetPeerUrls(), "err", err)
		own.PeerUrls = nil
	}
	return err == nil, err
}

// elsewhere reports whether others may look in vain for a member that has not
// said itself where it is: none of the URLs known is one it listens on. On a
// wildcard address it may be anywhere.
func elsewhere(known, told, listens []string) bool {
	if len(told) > 0 {
		return false
	}
	for _, u := range listens {
		if at, err := url.Parse(u); err != nil || slices.Contains(known, u) || at.Hostname() == "0.0.0.0" || at.Hostname() == "::" {
			return false
		}
	}
	return len(known) > 0 && len(listens) > 0
}

// published reports whether the table says what the member says; what is empty
// is not told.
func published(rec *entryv1.MemberRecord, own *entryv1.PublishMember) bool {
	return (own.GetName() == "" || rec.GetName() == own.GetName()) &&
		(len(own.GetPeerUrls()) == 0 || slices.Equal(rec.GetPeerUrls(), own.GetPeerUrls())) &&
		(len(own.GetClientUrls()) == 0 || slices.Equal(rec.GetClientUrls(), own.GetClientUrls()))
}
