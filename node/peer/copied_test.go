package peer

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestCopiedDirectoryIsRefused(t *testing.T) {
	n := start(t, 2)
	h := identity(1)
	h.To = 2
	original := rawStream(t, n)
	if _, err := original.hello(h); err != nil {
		t.Fatal(err)
	}
	second := rawStream(t, n) // the original's other lane
	if _, err := second.hello(h); err != nil {
		t.Fatal(err)
	}
	copied := proto.CloneOf(h)
	copied.BootNonce[0]++
	_, err := rawStream(t, n).hello(copied)
	if !errors.Is(err, ErrCopied) {
		t.Fatalf("the copy heard %v", err)
	}
	if fault.HintOf(err) == "" {
		t.Error("no hint for the operator")
	}
	// Another directory is for Check to judge.
	moved := proto.CloneOf(copied)
	moved.DirectoryNonce[0]++
	if _, err := rawStream(t, n).hello(moved); err != nil {
		t.Errorf("another directory: %v", err)
	}
	// The original is not harmed, and after it ended the next start is welcome.
	original.send(&chainfirev1.PeerFrame{Messages: [][]byte{mustMarshal(t, msg(raftpb.MsgVote, 1, 2))}})
	await(t, n.h.steps, "message of the original")
	_ = original.c.Close()
	_ = second.c.Close()
	for {
		_, err := rawStream(t, n).hello(copied)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrCopied) || t.Context().Err() != nil {
			t.Fatalf("restarted member heard %v", err)
		}
	}
}

// refusals collects what Config.Refused hears.
func refusals() (tweak, chan error) {
	ch := make(chan error, 64)
	return func(c *Config) {
		c.Refused = func(_ uint64, err error) {
			select {
			case ch <- err:
			default:
			}
		}
	}, ch
}

func TestCopyHearsThatItIsOne(t *testing.T) {
	listen, heard := refusals()
	b := start(t, 2)
	original := start(t, 1)
	connect(t, original, b)
	again := start(t, 1, listen, func(c *Config) {
		c.CopiedAfter = time.Nanosecond
		c.Self = func() *chainfirev1.PeerHello {
			h := identity(1)
			h.BootNonce[0]++
			return h
		}
	})
	again.tr.SetPeer(2, []string{b.url})
	if err := await(t, heard, "refusal"); !errors.Is(err, ErrCopied) {
		t.Errorf("the copy heard %v", err)
	}
}

// A member that comes back is refused while its old streams are believed to
// live; that must not be taken for a copy, and it passes.
func TestRestartIsNotACopy(t *testing.T) {
	listen, heard := refusals()
	b := start(t, 2)
	original := start(t, 1)
	connect(t, original, b)
	again := start(t, 1, listen, func(c *Config) {
		c.Self = func() *chainfirev1.PeerHello {
			h := identity(1)
			h.BootNonce[0]++
			return h
		}
	})
	again.tr.SetPeer(2, []string{b.url})
	await(t, again.h.unreachable, "report")
	await(t, again.h.unreachable, "second report")
	if err := again.tr.LastError(2); !errors.Is(err, ErrCopied) {
		t.Errorf("last error %v", err)
	}
	original.stop(t)
	resend(t, again, b)
	if len(heard) != 0 {
		t.Errorf("the node was told %v", <-heard)
	}
}

func TestRemovedMemberHearsIt(t *testing.T) {
	listen, heard := refusals()
	a := start(t, 1, listen)
	var removed atomic.Bool
	b := start(t, 2, func(c *Config) {
		c.Check = func(*chainfirev1.PeerHello) error {
			if removed.Load() {
				return fault.New(fault.Refused, "peer", ErrRemoved)
			}
			return nil
		}
	})
	connect(t, a, b)
	removed.Store(true)
	b.tr.RemovePeer(1) // the connection stands: it ends with the reason
	for range 3 {      // and every new one does
		if err := await(t, heard, "refusal"); !errors.Is(err, ErrRemoved) {
			t.Fatalf("heard %v", err)
		}
	}
	if err := a.tr.LastError(2); !errors.Is(err, ErrRemoved) {
		t.Errorf("last error %v", err)
	}
}
