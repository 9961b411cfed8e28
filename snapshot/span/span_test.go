package span

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
)

// table is a set of records in memory.
type table []Record

func tableOf(m map[string]string) table {
	var t table
	for k, v := range m {
		t = append(t, Record{Key: []byte(k), Value: []byte(v)})
	}
	slices.SortFunc(t, func(a, b Record) int { return bytes.Compare(a.Key, b.Key) })
	return t
}

// rows iterates over a table; broken is what its end gives.
type rows struct {
	t      table
	at     int
	broken error
}

func (r *rows) SeekAfter(key []byte) bool {
	r.at = 0
	for r.at < len(r.t) && len(key) > 0 && bytes.Compare(r.t[r.at].Key, key) <= 0 {
		r.at++
	}
	return r.at < len(r.t)
}
func (r *rows) Next() bool              { r.at++; return r.at < len(r.t) }
func (r *rows) Key() []byte             { return r.t[r.at].Key }
func (r *rows) Value() ([]byte, error)  { return r.t[r.at].Value, nil }
func (r *rows) Compare(a, b []byte) int { return bytes.Compare(a, b) }
func (r *rows) Err() error              { return r.broken }
func (r *rows) Close() error            { return nil }

// list cuts a table and sends the list in pieces.
func list(t testing.TB, src table, piece int) []Span {
	t.Helper()
	w := NewWalk(&rows{t: src})
	var encoded, before []byte
	for {
		s, err := w.Cut()
		if err != nil {
			t.Fatal(err)
		}
		encoded = s.Append(encoded, before)
		if before = s.End; len(before) == 0 {
			break
		}
	}
	var l ListReader
	var out []Span
	for part := range slices.Chunk(encoded, piece) {
		if err := l.Feed(part, func(s Span) error { s.End = bytes.Clone(s.End); out = append(out, s); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if !l.Whole() {
		t.Fatal("a list ends within a span")
	}
	return out
}

// sync brings base to src the way a target does, and gives the bytes that moved.
func sync(t testing.TB, base, src table, piece int) (_ table, moved int) {
	t.Helper()
	have := map[string]string{}
	for _, r := range base {
		have[string(r.Key)] = string(r.Value)
	}
	w := NewWalk(&rows{t: base})
	var req Request
	var after []byte
	for _, s := range list(t, src, piece) {
		var hashes []uint32
		mine, err := w.To(s.End, func(r Record) error { hashes = append(hashes, r.Hash); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if len(hashes) > MaxHashes {
			hashes = nil
		}
		if !mine.Same(s) {
			req.Add(after, s.End, hashes)
		}
		after = s.End
	}
	a := NewAnswerer(&rows{t: src})
	var answer []byte
	if err := ReadRequest(req.Encoded(), func(w Wanted) (err error) { answer, _, err = a.Append(answer, w); return err }); err != nil {
		t.Fatal(err)
	}
	in := NewAnswerReader(&req, bytes.Compare)
	for part := range slices.Chunk(answer, piece) {
		if err := in.Feed(part, func(c Change) error {
			at, i := NewWalk(&rows{t: base}), 0
			at.SeekAfter(c.After)
			if _, err := at.To(c.End, func(r Record) error {
				if c.Deletes(i) {
					delete(have, string(r.Key))
				}
				i++
				return nil
			}); err != nil {
				return err
			}
			for _, r := range c.Put {
				have[string(r.Key)] = string(r.Value)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !in.Whole() {
		t.Fatal("the answer is not whole")
	}
	return tableOf(have), len(req.Encoded()) + len(answer)
}

func same(a, b table) bool {
	return slices.EqualFunc(a, b, func(x, y Record) bool {
		return bytes.Equal(x.Key, y.Key) && bytes.Equal(x.Value, y.Value)
	})
}

// TestSync: whatever two sides have, what the target makes of the answers is what
// the source has.
func TestSync(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 1, 9, -1)
		pairs := rapid.MapOfN(key, rapid.StringN(0, 3, -1), 0, 300)
		src := pairs.Draw(t, "source")
		base := pairs.Draw(t, "base")
		if rapid.Bool().Draw(t, "alike") {
			base = map[string]string{}
			for k, v := range src {
				if k[len(k)-1] != 'b' || len(k)%3 > 0 {
					base[k] = v
				}
			}
			base["aab"] = "another"
		}
		want := tableOf(src)
		got, _ := sync(tb(t), tableOf(base), want, rapid.IntRange(1, 5000).Draw(t, "piece"))
		if !same(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}

// tb lets helpers of testing.TB run below rapid.
func tb(t *rapid.T) testing.TB { return rapidTB{t: t} }

type rapidTB struct {
	testing.TB
	t *rapid.T
}

func (r rapidTB) Helper()           {}
func (r rapidTB) Fatal(args ...any) { r.t.Fatal(args...) }

// A change costs about its record and the hashes of its span, not the whole.
func TestSyncMovesLittle(t *testing.T) {
	src, base := map[string]string{}, map[string]string{}
	for i := range 20_000 {
		k := fmt.Sprintf("key/%08d", i)
		src[k], base[k] = strings.Repeat("v", 200), strings.Repeat("v", 200)
	}
	src["key/00000777"], src["key/00010000x"] = "changed", "new"
	delete(src, "key/00015000")
	got, moved := sync(t, tableOf(base), tableOf(src), 1000)
	if !same(got, tableOf(src)) {
		t.Error("the result is not the source")
	}
	if moved > 3*(4*Records+100) {
		t.Errorf("%d bytes moved for three records", moved)
	}
	if _, nothing := sync(t, tableOf(src), tableOf(src), 1000); nothing != 0 {
		t.Errorf("%d bytes moved for nothing", nothing)
	}
}

// The digest of a span sees every byte of it, and where a key ends.
func TestDigestSeesChanges(t *testing.T) {
	base := table{{Key: []byte("a"), Value: []byte("xy")}, {Key: []byte("bc"), Value: []byte("z")}}
	whole := func(tb table) Span {
		s, err := NewWalk(&rows{t: tb}).To(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if whole(base).Sum != whole(slices.Clone(base)).Sum {
		t.Error("equal records differ")
	}
	for name, other := range map[string]table{
		"a value's bit":      {{Key: []byte("a"), Value: []byte("xx")}, base[1]},
		"a key's bit":        {{Key: []byte("`"), Value: []byte("xy")}, base[1]},
		"the border of both": {{Key: []byte("ax"), Value: []byte("y")}, base[1]},
		"the border of two":  {{Key: []byte("a"), Value: []byte("xyb")}, {Key: []byte("c"), Value: []byte("z")}},
		"one less":           base[:1],
	} {
		if whole(base).Same(whole(other)) {
			t.Errorf("%s is not seen", name)
		}
	}
}

// Spans are cut by number and by size, and the last one is open.
func TestCut(t *testing.T) {
	m := map[string]string{}
	for i := range 3 * Records {
		m[fmt.Sprintf("%05d", i)] = ""
	}
	m["00070"] = strings.Repeat("x", Bytes)
	var records, open int
	for i, s := range list(t, tableOf(m), 7) {
		if s.Count > Records || open > 0 {
			t.Errorf("span %d of %d records after %d open ones", i, s.Count, open)
		}
		if len(s.End) == 0 {
			open++
		}
		records += int(s.Count)
	}
	if records != len(m) || open != 1 {
		t.Errorf("%d records of %d, %d open spans", records, len(m), open)
	}
	if empty := list(t, nil, 1); len(empty) != 1 || empty[0].Count != 0 || len(empty[0].End) != 0 {
		t.Errorf("no records: %v", empty)
	}
}

// What a source would not have cut is not answered; what an answer must not hold
// is not taken.
func TestRefused(t *testing.T) {
	m := map[string]string{}
	for i := range 2 * Records {
		m[fmt.Sprintf("%05d", i)] = strings.Repeat("v", 10)
	}
	src := tableOf(m)
	if _, _, err := NewAnswerer(&rows{t: src}).Append(nil, Wanted{}); !fault.Is(err, fault.Usage) {
		t.Errorf("a span of everything: %v", err)
	}
	huge := table{{Key: []byte("k"), Value: make([]byte, MaxRecord)}}
	if _, err := NewWalk(&rows{t: huge}).Cut(); !fault.Is(err, fault.Refused) {
		t.Errorf("a record of %d bytes: %v", MaxRecord+1, err)
	}
	long := table{{Key: make([]byte, MaxKey+1)}}
	if _, err := NewWalk(&rows{t: long}).Cut(); !fault.Is(err, fault.Refused) {
		t.Errorf("a key of %d bytes: %v", MaxKey+1, err)
	}
	failed := errors.New("the disk")
	if _, err := NewWalk(&rows{t: src[:3], broken: failed}).Cut(); !errors.Is(err, failed) {
		t.Errorf("an iterator that failed: %v", err)
	}
	var req Request
	req.Add([]byte("b"), []byte("d"), []uint32{1, 2, 3})
	answer := func(gone byte, records ...string) []byte {
		out := []byte{gone, byte(len(records))}
		before := []byte("b")
		for _, k := range records {
			out = append(appendKey(out, before, []byte(k)), 1, 'v')
			before = []byte(k)
		}
		return out
	}
	for name, tc := range map[string]struct {
		answer []byte
		code   fault.Code
	}{
		"as asked":           {answer(5, "c", "d"), ""},
		"before the span":    {answer(0, "b"), fault.Corrupt},
		"after the span":     {answer(0, "d\x00"), fault.Corrupt},
		"out of order":       {answer(0, "cc", "c"), fault.Corrupt},
		"twice":              {answer(0, "c", "c"), fault.Corrupt},
		"too many":           {[]byte{0, Records + 1}, fault.Corrupt},
		"about something":    {append(answer(5, "c"), 0, 0), fault.Corrupt},
		"a number too long":  {append([]byte{0}, bytes.Repeat([]byte{0xff}, 11)...), fault.Corrupt},
		"a key too far back": {[]byte{0, 1, 9, 1, 'x', 0}, fault.Corrupt},
		"a huge value":       {append([]byte{0, 1, 0, 1, 'c'}, 0xff, 0xff, 0xff, 0xff, 0x0f), fault.Corrupt},
	} {
		in := NewAnswerReader(&req, bytes.Compare)
		err := in.Feed(tc.answer, func(c Change) error {
			if c.Deletes(0) != c.Deletes(2) || c.Deletes(1) || c.Deletes(3) {
				return fmt.Errorf("deletes %b", c.Gone)
			}
			return nil
		})
		if fault.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %q", name, err, tc.code)
		}
		if tc.code == "" && !in.Whole() {
			t.Errorf("%s: not whole", name)
		}
	}
	if in := NewAnswerReader(&req, bytes.Compare); in.Feed(answer(0)[:1], nil) != nil || in.Whole() {
		t.Error("half an answer is taken for a whole one")
	}
}

func FuzzListReader(f *testing.F) {
	f.Add(Span{End: []byte("abc"), Count: 3, Bytes: 9}.Append(nil, nil), 3)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		var l ListReader
		var encoded, before []byte
		for part := range slices.Chunk(data, max(piece, 1)) {
			if err := l.Feed(part, func(s Span) error {
				encoded = s.Append(encoded, before)
				before = bytes.Clone(s.End)
				return nil
			}); err != nil {
				if !fault.Is(err, fault.Corrupt) {
					t.Fatal(err)
				}
				return
			}
		}
		var again ListReader // what was read can be written and read again
		if err := again.Feed(encoded, func(Span) error { return nil }); err != nil || !again.Whole() {
			t.Fatalf("written again: %v", err)
		}
	})
}

func FuzzReadRequest(f *testing.F) {
	var req Request
	req.Add(nil, []byte("k"), []uint32{7})
	req.Add([]byte("k"), nil, nil)
	f.Add(req.Encoded())
	f.Fuzz(func(t *testing.T, data []byte) {
		a := NewAnswerer(&rows{t: tableOf(map[string]string{"a": "1", "k": "2", "z": "3"})})
		var answer []byte
		err := ReadRequest(data, func(w Wanted) (err error) {
			answer, _, err = a.Append(answer[:0], w)
			return err
		})
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatal(err)
		}
	})
}

func FuzzAnswerReader(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 'k', 1, 'v', 0, 0}, 2)
	f.Add([]byte{0, 1, 0, 1, 'k', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 9)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		var req Request
		req.Add(nil, []byte("m"), []uint32{7})
		req.Add([]byte("m"), nil, nil)
		in := NewAnswerReader(&req, bytes.Compare)
		var last []byte
		for part := range slices.Chunk(data, max(piece, 1)) {
			if err := in.Feed(part, func(c Change) error {
				for _, r := range c.Put {
					if cmp.Compare(string(r.Key), string(last)) <= 0 {
						t.Fatalf("%q after %q", r.Key, last)
					}
					last = bytes.Clone(r.Key)
				}
				return nil
			}); err != nil {
				if !fault.Is(err, fault.Corrupt) {
					t.Fatal(err)
				}
				return
			}
		}
	})
}
