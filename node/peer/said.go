package peer

import (
	"sync"
	"time"
)

const (
	sayAgain = time.Minute
	maxSaid  = 256 // texts remembered; a remote has a part in them
)

// refusalLog keeps a peer that is refused twice a second from filling the log.
type refusalLog struct {
	mu   sync.Mutex
	said map[string]time.Time
}

// news reports whether the text was not said lately, and takes it as said now.
func (l *refusalLog) news(text string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.said[text]; ok && now.Sub(at) < sayAgain {
		return false
	}
	if l.said == nil || len(l.said) >= maxSaid {
		l.said = map[string]time.Time{}
	}
	l.said[text] = now
	return true
}
