package raftlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/chainfire/cfseed/internal/fault"
)

// Compact gives back the space of entries that were truncated. Appends go on
// meanwhile; Close waits for it. It returns when it is done or ctx ends; one
// step that has begun goes on after that.
func (l *Log) Compact(ctx context.Context) (err error) {
	l.cmu.RLock()
	defer l.cmu.RUnlock()
	l.mu.RLock()
	closed := l.closed
	l.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	if err := l.latch.Err(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = l.latch.Fail(fmt.Errorf("compact: panic: %v", r))
		}
	}()
	err = l.db.Compact(ctx, []byte{keyFormat}, []byte{keyEnd}, false)
	switch {
	case err == nil:
		return l.latch.Err()
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	}
	return fault.New(fault.CodeOf(err), "compact raft log", err).At(l.dir)
}
