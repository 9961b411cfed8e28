package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestCompactor writes a revision a minute and says what is compacted when.
func TestCompactor(t *testing.T) {
	for _, c := range []struct {
		name string
		o    CompactorOptions
		want string // minutes and revisions, over 4 hours
	}{
		{"nothing", CompactorOptions{}, ""},
		{"an hour", CompactorOptions{Period: time.Hour}, "60:1 120:61 180:121 240:181"},
		{"two hours", CompactorOptions{Period: 2 * time.Hour}, "120:1 180:61 240:121"},
		{"half an hour", CompactorOptions{Period: 30 * time.Minute}, "30:1 60:31 90:61 120:91 150:121 180:151 210:181 240:211"},
		{"revisions", CompactorOptions{Revisions: 200}, "200:1 205:6 210:11 215:16 220:21 225:26 230:31 235:36 240:41"},
	} {
		t.Run(c.name, func(t *testing.T) {
			comp := NewCompactor(c.o)
			var got []string
			compacted := int64(0)
			for minute := range 241 {
				if rev := comp.Tick(time.Duration(minute)*time.Minute, int64(minute)+1, compacted, true); rev != 0 {
					got = append(got, fmt.Sprint(minute, ":", rev))
					compacted = rev
				}
			}
			if all := strings.Join(got, " "); all != c.want {
				t.Errorf("got %s, want %s", all, c.want)
			}
		})
	}
}

// TestCompactorFollows: a member that begins to lead goes on where the last
// leader was, and what had no effect is asked for again.
func TestCompactorFollows(t *testing.T) {
	comp := NewCompactor(CompactorOptions{Period: time.Hour})
	at := func(minute int, compacted int64, leads bool) int64 {
		return comp.Tick(time.Duration(minute)*time.Minute, int64(minute)+1, compacted, leads)
	}
	for minute := range 120 {
		if rev := at(minute, 31, false); rev != 0 {
			t.Fatalf("a follower compacts %d", rev)
		}
	}
	for _, minute := range []int{120, 126, 132} { // lost each time
		if rev := at(minute, 31, true); rev != int64(minute)-59 {
			t.Errorf("at %d: %d", minute, rev)
		}
	}
	if rev := at(138, 73, true); rev != 0 {
		t.Errorf("compacted again: %d", rev)
	}
	if rev := at(192, 73, true); rev != 133 {
		t.Errorf("an hour after the last: %d", rev)
	}
	if rev := at(198, 500, true); rev != 0 {
		t.Errorf("somebody else has compacted more: %d", rev)
	}
}

// TestCompactorKeeps: whatever leads and gets lost, nothing is compacted that
// was the newest revision less than the period ago; and while one leads and
// nothing is lost, no more is kept than that and the time of one compaction.
func TestCompactorKeeps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		period := time.Duration(rapid.IntRange(1, 180).Draw(t, "minutes")) * time.Minute
		type point struct {
			at  time.Duration
			rev int64
		}
		var (
			comp      = NewCompactor(CompactorOptions{Period: period})
			now       time.Duration
			rev       = int64(1)
			compacted int64
			history   []point
			calm      time.Duration // since when one leads and nothing is lost
		)
		newestAt := func(at time.Duration) int64 {
			i, _ := slices.BinarySearchFunc(history, at, func(p point, at time.Duration) int {
				if p.at <= at {
					return -1
				}
				return 1
			})
			if i == 0 {
				return 0
			}
			return history[i-1].rev
		}
		leads := true
		for range rapid.IntRange(100, 2000).Draw(t, "ticks") {
			now += time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second
			rev += int64(rapid.IntRange(0, 3).Draw(t, "writes"))
			history = append(history, point{now, rev})
			if rapid.IntRange(0, 99).Draw(t, "change") == 0 {
				leads, calm = !leads, now
			}
			asked := comp.Tick(now, rev, compacted, leads)
			if asked != 0 && (!leads || asked > newestAt(now-period) || asked <= compacted) {
				t.Fatalf("at %s: %d, with %d compacted and %d the newest %s ago", now, asked, compacted, newestAt(now-period), period)
			}
			if asked != 0 && rapid.IntRange(0, 3).Draw(t, "lost") > 0 {
				compacted = asked
			} else if asked != 0 {
				calm = now
			}
			interval := min(period, compactAtMost)
			slack := period + interval + 3*(interval/compactSteps+time.Minute)
			if leads && now-calm > slack && compacted < newestAt(now-slack) {
				t.Fatalf("at %s: %d is kept, %d was the newest %s ago", now, compacted, newestAt(now-slack), slack)
			}
		}
	})
}
