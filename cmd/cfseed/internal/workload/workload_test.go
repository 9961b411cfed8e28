package workload

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
)

// A window holds what was due in it, not what was answered in it.
func TestWindow(t *testing.T) {
	start := time.Unix(1000, 0)
	l := &Load{}
	for i, p := range []offered{
		{took: 5 * time.Second},                               // before
		{took: time.Millisecond},                              // the first inside
		{took: 9 * time.Second, failed: true},                 // answered after the window
		{took: 2 * time.Millisecond}, {took: time.Nanosecond}, // the second is behind
	} {
		p.due = start.Add(time.Duration(i) * time.Second)
		l.puts = append(l.puts, &p)
	}
	from, to := start.Add(time.Second), start.Add(4*time.Second)
	got, err := l.Window(t.Context(), from, to)
	want := measure.Latency{Puts: 3, Failed: 1, P50: 2, P99: 9000, Max: 9000, Slow: []measure.Slow{{At: 0, Ms: 1}, {At: 1, Ms: 9000}, {At: 2, Ms: 2}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	l.puts[2].took = 0
	if _, _, pending := l.between(from, to); pending != 1 {
		t.Errorf("%d puts pending", pending)
	}
}

func TestValues(t *testing.T) {
	seen := map[string]bool{}
	for _, size := range []int{MinValueSize, 256, 257, 4096} {
		for number := range uint64(20) {
			pairs := batch(7, number, batchPuts, size)
			again := batch(7, number, batchPuts, size)
			for i, p := range pairs {
				if len(p.value) != size || !json.Valid(p.value) {
					t.Fatalf("%d bytes, want %d of JSON: %s", len(p.value), size, p.value)
				}
				if p.key != again[i].key || !bytes.Equal(p.value, again[i].value) {
					t.Fatalf("batch %d is not the same twice", number)
				}
				if size == MinValueSize && seen[p.key] {
					t.Fatalf("key %s twice", p.key)
				}
				seen[p.key] = true
			}
		}
	}
	if a, b := batch(7, 3, 1, 256)[0], batch(8, 3, 1, 256)[0]; bytes.Equal(a.value, b.value) {
		t.Error("the seed makes no difference")
	}
	if a, b := batch(7, 3, 5, 256)[4], batch(7, 3, 9, 256)[4]; a.key != b.key || !bytes.Equal(a.value, b.value) {
		t.Error("a shorter batch is another batch")
	}
}
