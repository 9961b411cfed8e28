package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/fault"
)

// sampleRecords are a few records as a table has them.
var sampleRecords = []struct {
	kind       uint8
	seq        uint64
	key, value string
}{
	{Set, 0, "aa", "1"},
	{Set, 300, "ab", ""},
	{Delete, 7, "ab", ""},
	{Merge, MaxSeq, "b", "a value of more than sixteen bytes"},
}

// TestFormat pins the bytes: two versions of the program speak to each other in
// them.
func TestFormat(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		var list ListWriter
		var answer AnswerWriter
		var out []byte
		wanted := NewWanted(11)
		for i, r := range sampleRecords {
			switch d.Cmd {
			case "hash":
				out = fmt.Appendf(out, "%012x\n", Hash(r.kind, []byte(r.key), []byte(r.value)))
			case "list":
				out = list.Add(out, Listed{Hash: Hash(r.kind, []byte(r.key), []byte(r.value)), Kind: r.kind, Seq: r.seq})
			case "answer":
				out = answer.Append(out, []byte(r.key), []byte(r.value))
			case "wanted":
				wanted.Add(uint64(3 * i))
			}
		}
		switch d.Cmd {
		case "hash":
			return string(out)
		case "list":
			out = list.Flush(out)
		case "wanted":
			out = wanted.Encode()
		}
		return hex.Dump(out)
	})
}

// TestHashTellsRecordsApart: none of kind, key and value can be taken for another.
func TestHashTellsRecordsApart(t *testing.T) {
	seen := map[uint64]string{}
	long := bytes.Repeat([]byte("x"), 300)
	for _, kind := range []uint8{Delete, Set, Merge} {
		for _, n := range []int{0, 1, 2, 3, 4, 9, 17, 129, 250, 300} {
			for _, m := range []int{0, 1, 2, 3, 4, 9, 17, 129, 250, 300} {
				h := Hash(kind, long[:n], long[:m])
				name := fmt.Sprint(kind, n, m)
				if other, ok := seen[h]; ok || h >= 1<<HashBits {
					t.Errorf("%s and %s: %x", name, other, h)
				}
				seen[h] = name
			}
		}
	}
}

// feedIn feeds a stream in pieces of random sizes.
func feedIn(rng *rand.Rand, b []byte, feed func([]byte) error) error {
	for len(b) > 0 {
		n := 1 + rng.IntN(min(len(b), 1+rng.IntN(5000)))
		piece := bytes.Clone(b[:n])
		if err := feed(piece); err != nil {
			return err
		}
		clear(piece) // nothing of it is kept
		b = b[n:]
	}
	return nil
}

func TestListRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, BlockRecords - 1, BlockRecords, BlockRecords + 1, 5000} {
		var want, got []Listed
		var w ListWriter
		var b []byte
		for range n {
			l := Listed{Hash: rng.Uint64N(1 << HashBits), Kind: []uint8{Delete, Set, Merge, SingleDelete, SetDeleted, DeleteSized}[rng.IntN(6)]}
			if rng.IntN(2) == 0 {
				l.Seq = rng.Uint64N(MaxSeq + 1)
			}
			want = append(want, l)
			b = w.Add(b, l)
		}
		b = w.Flush(b)
		var r ListReader
		err := feedIn(rng, b, func(p []byte) error {
			return r.Feed(p, func(l Listed) error { got = append(got, l); return nil })
		})
		if err != nil || !r.Whole() || !slices.Equal(got, want) {
			t.Errorf("%d records: %d come back, %v", n, len(got), err)
		}
		if n > 0 {
			var cut ListReader
			if err := cut.Feed(b[:len(b)-1], func(Listed) error { return nil }); err != nil || cut.Whole() {
				t.Errorf("%d records, cut short: %v", n, err)
			}
		}
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type rec struct{ key, value []byte }
	var want, got []rec
	var w AnswerWriter
	var b []byte
	for i := range 300 {
		r := rec{fmt.Appendf(nil, "key/%03d", i), make([]byte, rng.IntN(1000))}
		if i%100 == 99 {
			r = rec{bytes.Repeat([]byte{byte(i)}, MaxKey), make([]byte, 1<<20)}
		}
		want = append(want, r)
		b = w.Append(b, r.key, r.value)
	}
	var r AnswerReader
	err := feedIn(rng, b, func(p []byte) error {
		return r.Feed(p, func(key, value []byte) error {
			got = append(got, rec{bytes.Clone(key), bytes.Clone(value)})
			return nil
		})
	})
	if err != nil || !r.Whole() || !slices.EqualFunc(got, want, func(a, b rec) bool { return bytes.Equal(a.key, b.key) && bytes.Equal(a.value, b.value) }) {
		t.Errorf("%d of %d records, %v", len(got), len(want), err)
	}
	own := errors.New("own")
	if err := new(AnswerReader).Feed(b, func([]byte, []byte) error { return own }); !errors.Is(err, own) {
		t.Errorf("the caller's error: %v", err)
	}
}

func TestWanted(t *testing.T) {
	for _, n := range []uint64{0, 1, 7, 8, 9, 1000, MaxRecords} {
		w := NewWanted(n)
		var want []uint64
		for i := n / 3; i < n; i += 1 + i/2 {
			w.Add(i)
			want = append(want, i)
		}
		got, err := ReadWanted(w.Encode())
		if err != nil || got.Records() != n || got.Count() != uint64(len(want)) {
			t.Fatalf("%d records: %d wanted, %v", n, got.Count(), err)
		}
		var found []uint64
		for i := got.Next(0); i < n; i = got.Next(i + 1) {
			if !got.Has(i) {
				t.Errorf("%d is next, and not wanted", i)
			}
			found = append(found, i)
		}
		if !slices.Equal(found, want) || got.Has(n) || got.Next(n) != n {
			t.Errorf("%d records: %v, want %v", n, found, want)
		}
	}
}

// TestMalformed: what is no stream of ours is fault.Corrupt before it is kept.
func TestMalformed(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	endless := bytes.Repeat([]byte{0xff}, 11)
	block := func(kind uint8, seq ...byte) []byte { return append([]byte{1, 0, 0, 0, 0, 0, 0, kind}, seq...) }
	list := func(b []byte) error { return new(ListReader).Feed(b, func(Listed) error { return nil }) }
	answer := func(b []byte) error {
		return new(AnswerReader).Feed(b, func([]byte, []byte) error { return nil })
	}
	wanted := func(b []byte) error { _, err := ReadWanted(b); return err }
	for name, c := range map[string]struct {
		read func([]byte) error
		b    []byte
	}{
		"list: a block of none":       {list, []byte{0}},
		"list: a large block":         {list, []byte{0x81, 0x08}},
		"list: endless number":        {list, endless},
		"list: kind of a range":       {list, block(15, 0)},
		"list: sequence number":       {list, block(Set, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01)},
		"answer: shares with nothing": {answer, []byte{1, 0, 0}},
		"answer: large key":           {answer, append([]byte{0}, huge...)},
		"answer: large value":         {answer, append([]byte{0, 1, 'k'}, huge...)},
		"answer: endless number":      {answer, endless},
		"wanted: nothing":             {wanted, nil},
		"wanted: short":               {wanted, []byte{9, 0}},
		"wanted: long":                {wanted, []byte{8, 0, 0}},
		"wanted: beyond the last":     {wanted, []byte{3, 0x08}},
		"wanted: too many":            {wanted, append(append([]byte{}, 0x81, 0x80, 0x40), make([]byte, MaxRecords/8+1)...)},
		"wanted: endless number":      {wanted, endless},
	} {
		if err := c.read(c.b); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzListReader(f *testing.F) {
	var w ListWriter
	f.Add(w.Flush(w.Add(nil, Listed{Hash: 1 << 40, Kind: Set, Seq: 300})), 3)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		var l ListReader
		var w ListWriter
		var encoded []byte
		n := 0
		for part := range slices.Chunk(data, max(piece, 1)) {
			if err := l.Feed(part, func(r Listed) error { encoded = w.Add(encoded, r); n++; return nil }); err != nil {
				if !fault.Is(err, fault.Corrupt) {
					t.Fatal(err)
				}
				return
			}
		}
		var again ListReader // what was read can be written and read again
		if err := again.Feed(w.Flush(encoded), func(Listed) error { n--; return nil }); err != nil || !again.Whole() || n != 0 {
			t.Fatalf("written again: %v, %d", err, n)
		}
	})
}

func FuzzAnswerReader(f *testing.F) {
	var w AnswerWriter
	f.Add(w.Append(w.Append(nil, []byte("ka"), []byte("v")), []byte("kb"), nil), 2)
	f.Add([]byte{0, 1, 'k', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 9)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		var in AnswerReader
		var w AnswerWriter
		var encoded []byte
		n := 0
		for part := range slices.Chunk(data, max(piece, 1)) {
			if err := in.Feed(part, func(key, value []byte) error { encoded = w.Append(encoded, key, value); n++; return nil }); err != nil {
				if !fault.Is(err, fault.Corrupt) {
					t.Fatal(err)
				}
				return
			}
		}
		var again AnswerReader
		if err := again.Feed(encoded, func([]byte, []byte) error { n--; return nil }); err != nil || !again.Whole() || n != 0 {
			t.Fatalf("written again: %v, %d", err, n)
		}
	})
}

func FuzzReadWanted(f *testing.F) {
	w := NewWanted(11)
	w.Add(3)
	f.Add(w.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ReadWanted(data)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		n := uint64(0)
		for i := w.Next(0); i < w.Records(); i = w.Next(i + 1) {
			n++
		}
		again, err := ReadWanted(w.Encode())
		if err != nil || n != w.Count() || again.Count() != n {
			t.Fatalf("%d of %d, again %d, %v", n, w.Count(), again.Count(), err)
		}
	})
}
