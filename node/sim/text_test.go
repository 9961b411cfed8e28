package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/fault"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// script runs the commands of a text file on a cluster.
type script struct {
	c   *Cluster
	out strings.Builder
}

// TestText runs the schedules in testdata. The commands:
//
//	cluster seed=N [lease-ttl=TICKS]      begin; comes first
//	start n1 [n2 ...] bootstrap           found the cluster
//	add n2 seed [learner] [from=n1]       start a join
//	run TICKS | wait join | wait leader   let time pass
//	put NODE KEY VALUE | get NODE KEY     a client's call, waited for
//	fill NODE KEY COUNT                   many puts
//	partition (n1,n2) (n3) | heal         the network
//	drop PERCENT                          lost messages
//	crash | stop | restart | wipe NODE    a node
//	transfer-leader NODE | remove NODE    asked of the leader
//	status | members | joins | digests | check | snapshots NODE
//	trace [MATCH ...]                     what happened since the last trace
func TestText(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{}
		defer func() {
			if s.c != nil {
				if err := s.c.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			if err := s.run(t, d); err != nil {
				s.printf("error: %s: %v\n", fault.CodeOf(err), err)
			}
			if s.out.Len() == 0 {
				return "ok\n"
			}
			return s.out.String()
		})
	})
}

func (s *script) printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.c != nil {
		text = s.c.readable(text)
	}
	s.out.WriteString(text)
}

// words gives the arguments that are not key=value.
func words(d *datadriven.TestData) []string {
	var out []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			out = append(out, a.Key)
		}
	}
	return out
}

func option(d *datadriven.TestData, key, def string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) == 1 {
			return a.Vals[0]
		}
	}
	return def
}

func (s *script) run(t *testing.T, d *datadriven.TestData) error {
	w := words(d)
	if d.Cmd == "cluster" {
		seed, _ := strconv.ParseUint(option(d, "seed", "1"), 10, 64)
		ttl, _ := strconv.ParseInt(option(d, "lease-ttl", "0"), 10, 64)
		s.c = New(Config{Seed: seed, Trace: true, LeaseTTL: ttl * Tick})
		return nil
	}
	var n *Node
	if len(w) > 0 {
		n = s.c.Node(w[0])
	}
	switch d.Cmd {
	case "start":
		return s.c.Bootstrap(w[:len(w)-1]...)
	case "add":
		s.c.Add(w[0], Options{Learner: slices.Contains(w, "learner"), From: option(d, "from", "")})
		return nil
	case "run":
		ticks, _ := strconv.Atoi(w[0])
		s.c.RunFor(int64(ticks) * Tick)
		return nil
	case "wait":
		return s.wait(w[0])
	case "put":
		s.call(s.c.Put(w[0], w[1], w[2]))
	case "get":
		s.call(s.c.Get(w[0], w[1]))
	case "fill":
		return s.fill(w)
	case "partition":
		s.partition(d)
	case "heal":
		s.c.Heal()
	case "drop":
		percent, _ := strconv.Atoi(w[0])
		s.c.SetDrop(percent)
	case "crash":
		return n.Crash(0)
	case "stop":
		return n.Stop()
	case "restart":
		return n.Restart()
	case "wipe":
		n.Wipe()
	case "transfer-leader":
		l := s.c.Leader()
		err := l.rep.TransferLeader(n.ID())
		l.pump()
		return err
	case "remove":
		return s.remove(n.ID())
	default:
		return s.show(t, d, w)
	}
	return nil
}

// show prints something.
func (s *script) show(t *testing.T, d *datadriven.TestData, w []string) error {
	switch d.Cmd {
	case "status":
		for _, n := range s.c.Nodes() {
			s.printf("%s\n", n)
		}
	case "members":
		s.members()
	case "joins":
		for _, j := range s.c.joins {
			s.printf("%s %s err=%v entries-after-add=%d seeds=%d\n", j.Node, j.Phase, fault.CodeOf(j.Err), j.EntriesAfterAdd, j.Seeds)
		}
	case "digests":
		s.digests()
	case "check":
		for _, b := range append(s.c.Check(), s.c.CheckClean()...) {
			s.printf("%s\n", b)
		}
	case "snapshots":
		s.printf("%d\n", s.c.SnapshotsSent(w[0]))
	case "trace":
		for _, line := range s.c.Trace() {
			if len(w) == 0 || slices.ContainsFunc(w, func(m string) bool { return strings.Contains(line, m) }) {
				s.printf("%s\n", line)
			}
		}
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	return nil
}

func (s *script) call(op *Op) {
	s.c.RunUntil(2*callTimeout, func() bool { return op.Outcome != Pending })
	s.printf("%s\n", op)
}

func (s *script) wait(what string) error {
	cond := func() bool { return s.c.Leader() != nil }
	if what == "join" {
		cond = func() bool { return !slices.ContainsFunc(s.c.joins, func(j *Join) bool { return !j.Ended }) }
	}
	if !s.c.RunUntil(200*Second, cond) {
		return fault.Newf(fault.Timeout, "wait", "no %s", what)
	}
	return nil
}

func (s *script) fill(w []string) error {
	count, _ := strconv.Atoi(w[2])
	for i := range count {
		op := s.c.Put(w[0], w[1], strconv.Itoa(i))
		if !s.c.RunUntil(2*callTimeout, func() bool { return op.Outcome != Pending }) || op.Outcome != OK {
			return fault.Newf(fault.Internal, "fill", "put %d: %s", i, op)
		}
	}
	return nil
}

func (s *script) partition(d *datadriven.TestData) {
	var groups [][]string
	for _, line := range strings.Split(d.Input, "\n") {
		groups = append(groups, strings.Fields(line))
	}
	s.c.Partition(groups...)
}

// remove removes a member, asked of the leader.
func (s *script) remove(id uint64) error {
	err := error(fault.Newf(fault.Unreachable, "remove", "no leader"))
	s.c.spawn(func(p *proc) { err = removeMember(p, id) })
	s.c.RunFor(10 * Second)
	return err
}

func (s *script) members() {
	l := s.c.Leader()
	if l == nil {
		s.printf("no leader\n")
		return
	}
	for _, m := range l.machine.Members() {
		role := "voter"
		if m.GetLearner() {
			role = "learner"
		}
		state := strings.ToLower(strings.TrimPrefix(m.GetState().String(), "MEMBER_STATE_"))
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
			role = "-"
		}
		s.printf("%s %s %s bound=%t lease=%d\n", m.GetName(), state, role, len(m.GetDirectoryNonce()) > 0, m.GetLeaseId())
	}
}

// digests compares the states instead of printing them, since they depend on
// nonces.
func (s *script) digests() {
	seen := make(map[[16]byte]string)
	for _, n := range s.c.Nodes() {
		if !n.up {
			continue
		}
		d := n.machine.Digest()
		if seen[d] == "" {
			seen[d] = string(rune('A' + len(seen)))
		}
		s.printf("%s %s at %s\n", n.name, seen[d], n.position())
	}
}
