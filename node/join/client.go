package join

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// retryPause is how long a call waits before it asks the next member; short
// against an election, so that a change of leader costs one election only.
const retryPause = 100 * time.Millisecond

// attemptPatience bounds one call to one member: longer than a member takes for
// a request or lets an admission queue, so only one that hangs is left for the
// next.
const attemptPatience = 15 * time.Second

// client asks any member of a list and goes on to the next one when a member
// is not there or has no leader to forward to.
type client struct {
	dial      Dialer
	endpoints []string
	given     int // of endpoints; the others were learned
	next      int
	conn      *grpc.ClientConn
	at        int // the endpoint of conn
}

func newClient(dial Dialer, endpoints []string) *client {
	return &client{dial: dial, endpoints: slices.Clone(endpoints), given: len(endpoints)}
}

// learn adds the members' client addresses to those to ask when the ones given
// do not answer any more.
func (c *client) learn(members []*chainfirev1.Member) {
	for _, m := range members {
		for _, url := range m.GetClientUrls() {
			if url != "" && !slices.Contains(c.endpoints, url) {
				c.endpoints = append(c.endpoints, url)
			}
		}
	}
}

func (c *client) Close() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// call runs fn against the members in turn until one answers with success or
// with an error that another member would give as well. It gives up when
// nobody has answered for patience.
func (c *client) call(ctx context.Context, op string, patience time.Duration, fn func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience,
		fault.Newf(fault.Timeout, op, "no member answered within %s", patience).
			WithHint("check the endpoints and that the cluster has a leader"))
	defer cancel()
	if len(c.endpoints) == 0 {
		return fault.Newf(fault.Usage, op, "no endpoint of the cluster is known")
	}
	var last error
	for {
		err := c.once(ctx, fn)
		if err == nil {
			return nil
		}
		if err = rpcfault.FromStatus(op, err); !c.elsewhere(err) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		if serr := sleep(ctx, retryPause); serr != nil {
			if last != nil && fault.Is(serr, fault.Timeout) {
				return fault.New(fault.CodeOf(last), "", last).WithHint("%s", fault.HintOf(serr))
			}
			return serr
		}
	}
}

func (c *client) once(ctx context.Context, fn func(context.Context, *grpc.ClientConn) error) error {
	if c.conn == nil {
		c.at = c.next % len(c.endpoints)
		conn, err := c.dial(ctx, c.endpoints[c.at])
		if err != nil {
			c.next++
			return err
		}
		c.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, attemptPatience)
	defer cancel()
	err := fn(ctx, c.conn)
	if err != nil && c.elsewhere(rpcfault.FromStatus("", err)) {
		c.next++
		_ = c.Close() // it is of no use any more
	}
	return err
}

// elsewhere reports whether another member may answer otherwise. A client address
// that was learned may ask for a user, which members' own addresses do not.
func (c *client) elsewhere(err error) bool {
	return retryable(err) || c.at >= c.given && fault.Is(err, fault.Permission)
}

func retryable(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unreachable, fault.NotLeader, fault.Timeout:
		return true
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return asFault(ctx)
	case <-t.C:
		return nil
	}
}

// asFault gives the reason a context ended as a typed error.
func asFault(ctx context.Context) error {
	return rpcfault.FromStatus("join", context.Cause(ctx))
}

// watchdog ends a wait in which nothing moves.
type watchdog struct {
	patience time.Duration
	now      func() time.Time
	last     time.Time
	match    uint64
	seen     bool
}

func newWatchdog(patience time.Duration, now func() time.Time) *watchdog {
	return &watchdog{patience: patience, now: now, last: now()}
}

func (w *watchdog) reset() { w.last = w.now() }

func (w *watchdog) check(st *chainfirev1.JoinStatusResponse) error {
	// A Raft snapshot moves no index while its files come; the leader ends one
	// that stands still.
	ago := st.GetSecondsSinceContact()
	coming := st.GetProgressState() == "snapshot" && ago >= 0 && ago < w.patience.Seconds()
	if !w.seen || coming || st.GetMatch() > w.match {
		w.seen, w.match, w.last = true, st.GetMatch(), w.now()
		return nil
	}
	if w.now().Sub(w.last) < w.patience {
		return nil
	}
	return fault.Newf(fault.Timeout, "catch up", "%s", describe(st)).
		WithHint("see the newcomer's log; check that the leader can reach its peer URL")
}
