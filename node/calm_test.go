package node

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCalm: a calm ends with the serving of its seed, or before, when that takes
// long.
func TestCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calms := 0
		begin := func() (end func()) {
			calms++
			ended := false
			return func() { // as often as one likes, as that of Store.Calm
				if !ended {
					calms--
				}
				ended = true
			}
		}
		after := func(d time.Duration, want int) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			if calms != want {
				t.Errorf("%d calms, want %d", calms, want)
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
