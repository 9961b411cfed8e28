package transfer

import "time"

// Serving is a seed that is open at this source.
type Serving struct {
	LeaseID    uint64
	Target     string
	BytesTotal uint64  // of all files
	BytesSent  uint64  // raw bytes of chunks sent, repetitions included
	Rate       float64 // BytesSent a second since the seed was opened
	Streams    int     // open now
}

// Serving lists the seeds that are open, in no order.
func (s *Server) Serving() []Serving {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Serving, 0, len(s.sessions))
	for _, sess := range s.sessions {
		v := Serving{LeaseID: sess.lease.ID, Target: sess.lease.Target, BytesTotal: sess.layout.TotalBytes(),
			BytesSent: sess.sent.Load(), Streams: sess.users}
		if age := time.Since(sess.opened).Seconds(); age > 0 {
			v.Rate = float64(v.BytesSent) / age
		}
		out = append(out, v)
	}
	return out
}
