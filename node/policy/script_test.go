package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

const tick = 100 * time.Millisecond

// script drives one Policy through a story told in testdata.
type script struct {
	t      *testing.T
	policy *Policy
	view   View
	perLog uint64 // bytes per log entry
}

// TestStories runs testdata. Commands:
//
//	options [reservation-ttl=] [learner-timeout=] [trailing=] [step=] [max-lag=]
//	leader term= | follower term=
//	cluster                         the cluster row is there
//	member id= voter|learner|stay|reserved|removed [activity=]
//	lease id= [hold=] [ttl=] [cap=] [renewal=] [for=] [gone]
//	progress id= [match=] [state=] [active=]
//	log [first=] [last=] [durable=] [bytes=]   bytes of one entry
//	pending on|off                  a configuration change is under way
//	run for=                        ticks until something is to be done
//	steps for=                      ticks to the end, prints all that is asked
//	caught-up id= | promotable id=
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasPrefix(path, lessorScripts) {
			return // TestLessor's
		}
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(d)
		})
	})
}

func newScript(t *testing.T) *script {
	s := &script{t: t, policy: New(Options{}), perLog: 1}
	s.view = View{SelfID: 1, ElectionTimeout: time.Second, Term: 1, Progress: map[uint64]Progress{}, First: 1}
	s.view.LogBytesAfter = func(index uint64) uint64 {
		if index >= s.view.Last {
			return 0
		}
		return (s.view.Last - index) * s.perLog
	}
	return s
}

func (s *script) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "options":
		s.policy = New(Options{
			ReservationTTL: s.duration(d, "reservation-ttl"), LearnerTimeout: s.duration(d, "learner-timeout"),
			TrailingEntries: s.num(d, "trailing", 0), StepEntries: s.num(d, "step", 0), MaxFollowerLagEntries: s.num(d, "max-lag", 0),
		})
	case "leader", "follower":
		s.view.Leader, s.view.Term = d.Cmd == "leader", s.num(d, "term", s.view.Term)
	case "cluster":
		s.view.Cluster = &entryv1.ClusterRecord{ClusterId: 7}
	case "member":
		s.member(d)
	case "lease":
		s.lease(d)
	case "progress":
		pr := s.view.Progress[s.num(d, "id", 0)]
		pr.Match = s.num(d, "match", pr.Match)
		if v := str(d, "state"); v != "" {
			pr.State = map[string]string{"probe": StateProbe, "replicate": StateReplicate, "snapshot": StateSnapshot}[v]
		}
		if v := str(d, "active"); v != "" {
			pr.RecentActive = v == "true"
		}
		s.view.Progress[s.num(d, "id", 0)] = pr
	case "log":
		s.log(d)
	case "pending":
		s.view.PendingConf = d.HasArg("on")
	case "run", "steps":
		return s.tick(s.duration(d, "for"), d.Cmd == "run")
	case "caught-up":
		return fmt.Sprintln(s.policy.CaughtUp(s.view, s.num(d, "id", 0)))
	case "promotable":
		if err := s.policy.Promotable(s.view, s.num(d, "id", 0)); err != nil {
			return err.Error() + "\n"
		}
		return "yes\n"
	default:
		s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	return ""
}

// tick calls Decide every 100 ms. The voters' answers keep pace with the log,
// those of learners stay where the story put them.
func (s *script) tick(total time.Duration, stop bool) string {
	var b strings.Builder
	start := s.view.Now
	for s.view.Now < start+total {
		s.view.Now += tick
		var acts []string
		for _, a := range s.policy.Decide(s.view) {
			acts = append(acts, fmt.Sprintf("%s: %s\n", s.view.Now-start, a))
		}
		b.WriteString(strings.Join(acts, ""))
		if stop && len(acts) > 0 {
			return b.String()
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func (s *script) member(d *datadriven.TestData) {
	id := s.num(d, "id", 0)
	rec := &entryv1.MemberRecord{Id: id, State: entryv1.MemberState_MEMBER_STATE_MEMBER, VoterIntent: true, Activity: s.num(d, "activity", 1)}
	switch {
	case d.HasArg("reserved"):
		rec.State = entryv1.MemberState_MEMBER_STATE_RESERVED
	case d.HasArg("removed"):
		rec.State = entryv1.MemberState_MEMBER_STATE_REMOVED
	case d.HasArg("stay"):
		rec.Learner, rec.StayLearner, rec.VoterIntent = true, true, false
	case d.HasArg("learner"):
		rec.Learner = true
	case !d.HasArg("voter"):
		s.t.Fatalf("%s: which state?", d.Pos)
	}
	members := slices.DeleteFunc(slices.Clone(s.view.Members), func(m *entryv1.MemberRecord) bool { return m.GetId() == id })
	members = append(members, rec)
	slices.SortFunc(members, func(a, b *entryv1.MemberRecord) int { return int(a.GetId()) - int(b.GetId()) })
	s.view.Members = members
}

func (s *script) lease(d *datadriven.TestData) {
	id := s.num(d, "id", 0)
	rec := &entryv1.SeedLease{Id: id, Hold: id, TtlMs: 60000, CapBytes: 1 << 40}
	var rest []*entryv1.SeedLease
	for _, l := range s.view.Leases {
		if l.GetId() == id {
			rec = &entryv1.SeedLease{Id: id, Hold: l.GetHold(), Renewal: l.GetRenewal(), TtlMs: l.GetTtlMs(), CapBytes: l.GetCapBytes(), MemberId: l.GetMemberId()}
		} else {
			rest = append(rest, l)
		}
	}
	if s.view.Leases = rest; d.HasArg("gone") {
		return
	}
	rec.Hold = s.num(d, "hold", rec.GetHold())
	rec.Renewal = s.num(d, "renewal", rec.GetRenewal())
	rec.CapBytes = s.num(d, "cap", rec.GetCapBytes())
	rec.MemberId = s.num(d, "for", rec.GetMemberId())
	if d.HasArg("ttl") {
		rec.TtlMs = uint64(s.duration(d, "ttl").Milliseconds())
	}
	s.view.Leases = append(s.view.Leases, rec)
	slices.SortFunc(s.view.Leases, func(a, b *entryv1.SeedLease) int { return int(a.GetId()) - int(b.GetId()) })
}

func (s *script) log(d *datadriven.TestData) {
	v := &s.view
	v.First = s.num(d, "first", v.First)
	v.Last = s.num(d, "last", v.Last)
	v.Commit, v.Applied = v.Last, v.Last
	v.DurableApplied = s.num(d, "durable", v.DurableApplied)
	s.perLog = s.num(d, "bytes", s.perLog)
}

func str(d *datadriven.TestData, key string) string {
	if arg, ok := d.Arg(key); ok && len(arg.Vals) > 0 {
		return arg.Vals[0]
	}
	return ""
}

func (s *script) num(d *datadriven.TestData, key string, def uint64) uint64 {
	v := str(d, key)
	if v == "" {
		return def
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return n
}

func (s *script) duration(d *datadriven.TestData, key string) time.Duration {
	v := str(d, key)
	if v == "" {
		return 0
	}
	out, err := time.ParseDuration(v)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return out
}
