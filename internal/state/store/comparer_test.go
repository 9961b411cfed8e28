package store

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sampleKeys gives encoded keys with prefixes and suffixes that are easy to
// get wrong: bytes of the terminators inside user keys, common prefixes.
func sampleKeys() [][]byte {
	parts := []string{"", "a", "a\x00", "a\x00\x00b", "a\x09", "\x09", "\x00\x09", "ab", "b", "\xff", "\xff\xff", "abcdefghijk", "abcdefghij\x09"}
	var keys [][]byte
	for _, p := range parts {
		prefix := appendPrefix(nil, MVCC, []byte(p))
		keys = append(keys, prefix)
		for _, rev := range []int64{1, 2, 255, 256, 1 << 40} {
			keys = append(keys, appendSuffix(slices.Clone(prefix), rev))
		}
		keys = append(keys, appendPrefix(nil, Members, []byte(p)))
	}
	return keys
}

// less is the order as the package comment states it.
func less(a, b []byte) int {
	ap, ar, av, _ := splitKey(a)
	bp, br, bv, _ := splitKey(b)
	if ap[0] != bp[0] {
		return int(ap[0]) - int(bp[0])
	}
	if c := bytes.Compare(userKey(ap), userKey(bp)); c != 0 {
		return c
	}
	switch {
	case av != bv && !av:
		return -1
	case av != bv:
		return 1
	case ar > br:
		return -1
	case ar < br:
		return 1
	}
	return 0
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// checkComparer states what Pebble requires of a Comparer.
func checkComparer(t interface{ Fatalf(string, ...any) }, a, b []byte) {
	c := Comparer()
	ap, bp := a[:c.Split(a)], b[:c.Split(b)]
	as, bs := a[len(ap):], b[len(bp):]
	got := c.Compare(a, b)
	switch {
	case sign(got) != sign(less(a, b)):
		t.Fatalf("Compare(%s, %s) = %d, order says %d", c.FormatKey(a), c.FormatKey(b), got, less(a, b))
	case sign(c.Compare(b, a)) != -sign(got):
		t.Fatalf("Compare(%x, %x) is not antisymmetric", a, b)
	case c.Equal(a, b) != (got == 0):
		t.Fatalf("Equal(%x, %x) disagrees with Compare", a, b)
	case c.Split(ap) != len(ap):
		t.Fatalf("prefix %x of %x has a suffix", ap, a)
	case len(as) > 0 && c.Compare(ap, a) >= 0:
		t.Fatalf("prefix %x is not before its key %x", ap, a)
	case c.Split(as) != 0:
		t.Fatalf("suffix %x is not a key without prefix", as)
	case got <= 0 && c.Compare(ap, bp) > 0:
		t.Fatalf("prefixes of %x and %x are out of order", a, b)
	case bytes.Equal(ap, bp) && (sign(c.ComparePointSuffixes(as, bs)) != sign(got) || sign(c.CompareRangeSuffixes(as, bs)) != sign(got)):
		t.Fatalf("suffixes of %x and %x order differently from the keys", a, b)
	case c.AbbreviatedKey(a) < c.AbbreviatedKey(b) && got >= 0, c.AbbreviatedKey(a) > c.AbbreviatedKey(b) && got <= 0:
		t.Fatalf("abbreviated keys of %x and %x are out of order", a, b)
	}
	for i := 1; i < len(ap); i++ {
		if n := c.Split(a[i:]); n != len(ap)-i {
			t.Fatalf("without %d leading bytes %x splits at %d", i, a, n)
		}
	}
	if got < 0 {
		sep := c.Separator(nil, a, b)
		if c.Compare(a, sep) > 0 || c.Compare(sep, b) >= 0 || !wellFormed(sep) {
			t.Fatalf("Separator(%x, %x) = %x", a, b, sep)
		}
	}
	if suc := c.Successor(nil, a); c.Compare(a, suc) > 0 || !wellFormed(suc) {
		t.Fatalf("Successor(%x) = %x", a, suc)
	}
	if next := c.ImmediateSuccessor(nil, ap); c.Compare(ap, next) >= 0 || c.Split(next) != len(next) || (bytes.Compare(ap, bp) < 0 && c.Compare(next, bp) > 0) {
		t.Fatalf("ImmediateSuccessor(%x) = %x, other prefix %x", ap, next, bp)
	}
}

func wellFormed(k []byte) bool {
	return k[len(k)-1] == endPrefix || k[len(k)-1] == endVersion && len(k) > suffixLen && k[len(k)-suffixLen-1] == endPrefix
}

func TestComparerMeetsPebblesRules(t *testing.T) {
	keys := sampleKeys()
	for _, a := range keys {
		for _, b := range keys {
			checkComparer(t, a, b)
		}
	}
}

func TestComparerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := func(name string) []byte {
			part := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 9, 'a', 0xff}), 0, 14).Draw(t, name)
			k := appendPrefix(nil, MVCC, part)
			if rev := rapid.Int64Range(0, 1<<62).Draw(t, name+" revision"); rev > 0 {
				k = appendSuffix(k, rev)
			}
			return k
		}
		checkComparer(t, key("a"), key("b"))
	})
}

func TestSuccessorOfNothing(t *testing.T) {
	if got := Comparer().Successor(nil, nil); len(got) == 0 {
		t.Fatal("empty key")
	}
}

func TestSplitKeyRefusesWhatIsNoKey(t *testing.T) {
	for _, k := range []string{"", "\x00", "\x03", "\x03a", "\x0312345678\x09", "\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"} {
		if p, rev, _, err := splitKey([]byte(k)); err == nil {
			t.Errorf("splitKey(%x) = %x, %d", k, p, rev)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "ab": "ac"} {
		if got := prefixEnd([]byte(prefix)); string(got) != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
	for _, open := range []string{"", "\xff", "\xff\xff"} {
		if got := prefixEnd([]byte(open)); got != nil {
			t.Errorf("prefixEnd(%q) = %q, want none", open, got)
		}
	}
}
