package peer

import (
	"bytes"
	"sync"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// session is a live stream to or from a member, after its hello.
type session struct {
	hello *chainfirev1.PeerHello
	end   func(error) // ends the stream with this reason
}

// sessions are all live streams, by member ID, whoever opened them.
type sessions struct {
	mu   sync.Mutex
	byID map[uint64]map[*session]struct{}
}

func newSessions() *sessions { return &sessions{byID: map[uint64]map[*session]struct{}{}} }

// open registers a stream. The same directory with another boot nonce, while
// one of its streams is live, is ErrCopied.
func (ss *sessions) open(s *session) (release func(), err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	id := s.hello.GetFrom()
	for o := range ss.byID[id] {
		if bytes.Equal(o.hello.GetDirectoryNonce(), s.hello.GetDirectoryNonce()) &&
			!bytes.Equal(o.hello.GetBootNonce(), s.hello.GetBootNonce()) {
			return nil, fault.New(fault.Refused, opHello, ErrCopied)
		}
	}
	if ss.byID[id] == nil {
		ss.byID[id] = map[*session]struct{}{}
	}
	ss.byID[id][s] = struct{}{}
	return func() {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		delete(ss.byID[id], s)
		if len(ss.byID[id]) == 0 {
			delete(ss.byID, id)
		}
	}, nil
}

// of gives the live streams of one member.
func (ss *sessions) of(id uint64) []*session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	var out []*session
	for s := range ss.byID[id] {
		out = append(out, s)
	}
	return out
}
