package node

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestCalm: a calm ends with the serving of its seed, or before, when that takes
// long.
func TestCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calms atomic.Int32
		begin := func() (end func()) {
			calms.Add(1)
			return sync.OnceFunc(func() { calms.Add(-1) }) // as Store.Calm
		}
		after := func(d time.Duration, want int32) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			if got := calms.Load(); got != want {
				t.Errorf("%d calms, want %d", got, want)
			}
		}
		first, second := calm(begin), calm(begin)
		after(calmWhileServed-time.Second, 2)
		first()
		after(0, 1)
		after(2*time.Second, 0) // the second is still served
		second()
		first()
		after(0, 0)
		third := calm(begin)
		third()
		after(2*calmWhileServed, 0)
	})
}
