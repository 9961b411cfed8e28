package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/peer"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// strandedElections is how many election timeouts a member must be stranded
// before it ends: long enough to tell it from an operator at work.
const strandedElections = 30

// stranded notices that a member can never be part of a quorum, because the
// peers it knows are of another cluster. One stray process at a peer's address
// is no reason to end: as long as the others could make a quorum, or one of
// them was heard, the member goes on. A member whose cluster never formed has
// nothing to lose; one whose cluster did wants two strangers at least, since
// each side of a pair sees the same.
type stranded struct {
	patience time.Duration

	mu    sync.Mutex
	since time.Time // zero: it was not so at the last look
}

// standing is how another member stands to this one.
type standing struct {
	votes   bool
	foreign bool // says that it is of another cluster
	heard   bool // is connected, or was heard lately
}

// hear is called for each refusal with peer.ErrOtherCluster, which comes about
// twice a second from each such peer.
func (s *stranded) hear(m *member, err error) {
	self := m.identity.get()
	var others []standing
	votes := false
	for _, r := range m.state.machine().Members() {
		switch {
		case r.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER:
		case r.GetId() == self.MemberID:
			votes = !r.GetLearner()
		default:
			last := m.transport.LastError(r.GetId())
			ago, ever := m.transport.LastContact(r.GetId())
			others = append(others, standing{votes: !r.GetLearner(), foreign: errors.Is(last, peer.ErrOtherCluster),
				heard: ever && (last == nil || ago < s.patience)})
		}
	}
	lost := noQuorum(others, votes, !self.Cluster.Genesis.IsZero())
	if !s.lasts(time.Now(), lost) {
		return
	}
	m.membership.removed(fault.New(fault.Refused, "node", fmt.Errorf("no quorum is left among the members that this one knows: %w", peer.ErrOtherCluster)).
		WithHint("%s", fault.HintOf(err)))
}

// lasts reports whether lost has been so at every look for long enough.
func (s *stranded) lasts(now time.Time, lost bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !lost:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = now
	}
	return lost && now.Sub(s.since) >= s.patience
}

// noQuorum reports whether the others leave no hope; formed says that this
// member's cluster had a leader once.
func noQuorum(others []standing, selfVotes, formed bool) bool {
	voters, foreign := 0, 0
	if selfVotes {
		voters = 1
	}
	for _, o := range others {
		if o.heard {
			return false
		}
		if o.votes {
			voters++
			if o.foreign {
				foreign++
			}
		}
	}
	if formed && foreign < 2 {
		return false
	}
	return foreign > 0 && voters-foreign < voters/2+1
}
