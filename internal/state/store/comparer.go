package store

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// ComparerName is the name Pebble records in every file; part of the format.
const ComparerName = "cfseed.state.v1"

// Comparer gives the order of the keys described in the package comment.
func Comparer() *pebble.Comparer {
	return &pebble.Comparer{
		Name:                 ComparerName,
		Split:                split,
		Compare:              compare,
		Equal:                bytes.Equal,
		ComparePointSuffixes: compareSuffixes,
		CompareRangeSuffixes: compareSuffixes,
		AbbreviatedKey: func(k []byte) uint64 {
			return pebble.DefaultComparer.AbbreviatedKey(k[:split(k)])
		},
		Separator:          separator,
		Successor:          successor,
		ImmediateSuccessor: func(dst, a []byte) []byte { return append(append(dst, a...), endPrefix) },
		FormatKey:          func(k []byte) fmt.Formatter { return keyFormatter(k) },
	}
}

// split gives the length of a key's prefix. Bytes that are no key of ours (a
// bound of one table byte) are all prefix.
func split(k []byte) int {
	if n := len(k); n >= suffixLen && k[n-1] == endVersion {
		return n - suffixLen
	}
	return len(k)
}

// compareSuffixes orders no suffix first, then the newest revision: the
// complement is stored, so bytes order it.
func compareSuffixes(a, b []byte) int { return bytes.Compare(a, b) }

func compare(a, b []byte) int {
	an, bn := split(a), split(b)
	if c := bytes.Compare(a[:an], b[:bn]); c != 0 {
		return c
	}
	return bytes.Compare(a[an:], b[bn:])
}

// separator shortens the prefix only: what it gives must end like a key.
func separator(dst, a, b []byte) []byte {
	ap, bp := a[:split(a)], b[:split(b)]
	if bytes.Compare(ap, bp) >= 0 || len(ap) == 0 {
		return append(dst, a...)
	}
	n := len(dst)
	dst = pebble.DefaultComparer.Separator(dst, ap, bp)
	if bytes.Equal(dst[n:], ap) {
		return append(dst[:n], a...)
	}
	dst = append(dst, endPrefix)
	if bytes.Compare(dst[n:], bp) >= 0 {
		return append(dst[:n], a...)
	}
	return dst
}

func successor(dst, a []byte) []byte {
	if len(a) == 0 {
		return append(dst, endPrefix)
	}
	ap := a[:split(a)]
	n := len(dst)
	dst = pebble.DefaultComparer.Successor(dst, ap)
	if bytes.Equal(dst[n:], ap) {
		return append(dst[:n], a...)
	}
	return append(dst, endPrefix)
}

type keyFormatter []byte

// Format prints "table/key" or "table/key@revision".
func (k keyFormatter) Format(s fmt.State, _ rune) {
	prefix, rev, versioned, err := splitKey(k)
	switch {
	case err != nil:
		fmt.Fprintf(s, "%x", []byte(k))
	case versioned:
		fmt.Fprintf(s, "%s/%q@%d", Table(prefix[0]), userKey(prefix), rev)
	default:
		fmt.Fprintf(s, "%s/%q", Table(prefix[0]), userKey(prefix))
	}
}
