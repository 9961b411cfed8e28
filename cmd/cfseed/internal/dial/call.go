package dial

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
)

// Call is one attempt at one endpoint. It returns errors as gRPC gives them.
type Call func(ctx context.Context, conn *grpc.ClientConn) error

// Read makes the call at the first endpoint that answers it, within the
// timeout at each. op names the call in errors.
func (d *Dialer) Read(ctx context.Context, op string, call Call) error {
	return d.each(ctx, op, call, func(err error) bool {
		return isBroken(err) || retriable(err) || fault.Is(rpcfault.FromStatus(op, err), fault.Timeout)
	})
}

// Write is Read for a call that must not happen twice.
func (d *Dialer) Write(ctx context.Context, op string, call Call) error {
	return d.each(ctx, op, call, retriable)
}

// retriable reports whether the member said that somebody else must be asked.
func retriable(err error) bool {
	return fault.Is(rpcfault.FromStatus("", err), fault.NotLeader) || strings.Contains(err.Error(), "etcdserver: no leader")
}

func (d *Dialer) each(ctx context.Context, op string, call Call, elsewhere func(error) bool) error {
	var failures []error
	for _, endpoint := range d.endpoints {
		conn, err := d.Dial(ctx, endpoint)
		if err == nil {
			err = d.once(ctx, conn, call)
			if err == nil {
				return nil
			}
			if ctx.Err() == nil && elsewhere(err) {
				failures = append(failures, rpcfault.FromStatus(endpoint, err))
				continue
			}
			return classed(ctx, op, err)
		}
		if ctx.Err() != nil || !fault.Is(err, fault.Unreachable) {
			return classed(ctx, op, err)
		}
		failures = append(failures, err)
	}
	return nobody(op, failures)
}

func (d *Dialer) once(ctx context.Context, conn *grpc.ClientConn, call Call) error {
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	err := release(conn, call(limited, conn))
	// The member's clock may end the call a moment before ours does.
	if end, _ := limited.Deadline(); err != nil && ctx.Err() == nil && !time.Now().Before(end) {
		return fault.Newf(fault.Timeout, "", "no answer within %s", d.timeout)
	}
	return err
}

// nobody sums up what each endpoint said: the class and hint of the last word
// that came from a member, or unreachable.
func nobody(op string, failures []error) error {
	code, text := fault.Unreachable, "no endpoint answers"
	hint := "start a node (cfseed node), or name one that runs with --endpoints"
	var words []string
	for _, f := range failures {
		if c := fault.CodeOf(f); c != fault.Unreachable {
			code, text, hint = c, "no endpoint can do it", fault.HintOf(f)
		}
		words = append(words, f.Error())
	}
	return fault.Newf(code, op, "%s: %s", text, strings.Join(words, "; ")).WithHint("%s", hint)
}

// FollowCall is one attempt at a followed call; it calls beat at each sign of
// progress.
type FollowCall func(ctx context.Context, conn *grpc.ClientConn, beat func()) error

// Follow makes a call that continues where it was when it is made again. It
// goes on at the next endpoint when a connection breaks or the leader is
// elsewhere, until the call ends or nothing has moved for the timeout. Only
// when no endpoint could be reached in the first round does it give up at once.
func (d *Dialer) Follow(ctx context.Context, op string, call FollowCall) error {
	ctx, beat, stop := Watch(ctx, d.timeout)
	defer stop()
	reached := false
	for {
		var failures []error
		for _, endpoint := range d.endpoints {
			conn, err := d.Dial(ctx, endpoint)
			if err == nil {
				reached = true
				err = release(conn, call(ctx, conn, beat))
				if err == nil {
					return nil
				}
				if ctx.Err() != nil || !(isBroken(err) || retriable(err)) {
					return classed(ctx, op, err)
				}
			} else if ctx.Err() != nil || !fault.Is(err, fault.Unreachable) {
				return classed(ctx, op, err)
			}
			failures = append(failures, rpcfault.FromStatus(endpoint, err))
		}
		if !reached {
			return nobody(op, failures)
		}
		if err := pause(ctx, followPause); err != nil {
			return classed(ctx, op, err)
		}
	}
}

// followPause is between two rounds over the endpoints.
const followPause = 500 * time.Millisecond

// Once makes a followed call at one endpoint, one time: what breaks is not
// tried again. It ends when nothing has moved for the timeout.
func (d *Dialer) Once(ctx context.Context, op, endpoint string, call FollowCall) error {
	ctx, beat, stop := Watch(ctx, d.timeout)
	defer stop()
	conn, err := d.Dial(ctx, endpoint)
	if err != nil {
		return classed(ctx, op, err)
	}
	return classed(ctx, op, release(conn, call(ctx, conn, beat)))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Watch gives a context that ends, with a fault.Timeout as its cause, when beat
// was not called for idle. stop releases it.
func Watch(ctx context.Context, idle time.Duration) (watched context.Context, beat, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	var mu sync.Mutex
	timer := time.AfterFunc(idle, func() {
		cancel(fault.Newf(fault.Timeout, "", "no progress for %s", idle).
			WithHint("the cluster ends what it began by itself; the same command continues it"))
	})
	beat = func() {
		mu.Lock()
		defer mu.Unlock()
		if watched.Err() == nil {
			timer.Reset(idle)
		}
	}
	stop = func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
		cancel(context.Canceled)
	}
	return watched, beat, stop
}
