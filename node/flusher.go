package node

import (
	"context"
	"time"

	"github.com/chainfire/cfseed/internal/state"
)

// flushEvery bounds the age of applied entries that only the Raft log holds
// durably, and with that the log replayed after a crash.
const flushEvery = 30 * time.Second

// flusher makes the applied state durable by age and by log bytes, and tells
// the driver how far it is, which truncation waits for (S5).
func (m *member) flusher(ctx context.Context) error {
	const look, most = time.Second, 64 << 20
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := m.state.read(func(s *state.Machine) error {
			durable, err := s.Store().DurablePosition()
			if err != nil {
				return err
			}
			behind := durable.Index < s.Applied().Index
			if behind && (time.Since(last) > flushEvery || m.log.BytesAfter(durable.Index) > most) {
				last = time.Now()
				if err := s.Store().Flush(); err != nil {
					return err
				}
				if durable, err = s.Store().DurablePosition(); err != nil {
					return err
				}
			} else if !behind {
				last = time.Now()
			}
			m.driver.setDurable(durable.Index)
			return nil
		})
		if err != nil {
			return err
		}
	}
}
