package verify

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/snapshot/manifest"
)

// example encodes a manifest with the code that installs use.
func example(t testing.TB) (*manifest.Manifest, []byte) {
	t.Helper()
	f := newFixture(t).build()
	seeded := f.seeded("b")
	raw, err := readFile(f.fs, seeded.dir.Manifest(), manifestMax)
	f.must(err)
	m, err := manifest.Unmarshal(raw)
	f.must(err)
	return m, raw
}

// TestManifestReaders: both readers see the same document.
func TestManifestReaders(t *testing.T) {
	want, raw := example(t)
	got, err := parseManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.root != want.Root() || got.position != want.Position || got.cluster != want.Cluster ||
		got.digest != want.StateDigest || got.revision != want.Revision || got.chunkSize != uint64(want.ChunkSize) ||
		len(got.voters) != 1 || got.voters[0] != want.ConfState.Voters[0] || len(got.learners) != 0 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(got.files) != len(want.Files) {
		t.Fatalf("%d files, want %d", len(got.files), len(want.Files))
	}
	for i := range got.files {
		g, w := &got.files[i], &want.Files[i]
		if g.name != w.Name || g.size != w.Size || g.digest != w.Digest || len(g.sums) != len(w.Chunks) ||
			g.immutable() != (w.Kind == manifest.KindTable || w.Kind == manifest.KindBlob) {
			t.Errorf("file %d: %+v, want %+v", i, g, w)
		}
	}
}

// TestManifestDamage: every bit counts, and so does every byte of length.
func TestManifestDamage(t *testing.T) {
	_, raw := example(t)
	for i := range raw {
		b := append([]byte(nil), raw...)
		b[i] ^= 1 << (i % 8)
		if _, err := parseManifest(b); err == nil {
			t.Fatalf("a flip in byte %d was not seen", i)
		}
		if _, err := parseManifest(raw[:i]); err == nil {
			t.Fatalf("the first %d bytes were accepted", i)
		}
	}
	if _, err := parseManifest(append(raw, 0)); err == nil {
		t.Error("a byte too many was accepted")
	}
}

// TestManifestHostile: a manifest whose checksum is right but that asks for the
// impossible.
func TestManifestHostile(t *testing.T) {
	_, raw := example(t)
	le := binary.LittleEndian
	name := func(b []byte) []byte { return b[104+8+2:] } // of the first file: one voter, no learner
	for what, edit := range map[string]func([]byte){
		"chunk size 0":       func(b []byte) { le.PutUint32(b[12:], 0) },
		"chunk size odd":     func(b []byte) { le.PutUint32(b[12:], 5000) },
		"2^32-1 voters":      func(b []byte) { le.PutUint32(b[92:], 1<<32-1) },
		"2^32-1 files":       func(b []byte) { le.PutUint32(b[100:], 1<<32-1) },
		"one file too many":  func(b []byte) { le.PutUint32(b[100:], le.Uint32(b[100:])+1) },
		"one file too few":   func(b []byte) { le.PutUint32(b[100:], le.Uint32(b[100:])-1) },
		"path in a name":     func(b []byte) { copy(name(b), "../../x") },
		"NUL in a name":      func(b []byte) { name(b)[0] = 0 },
		"size of 2^64-1":     func(b []byte) { le.PutUint64(name(b)[b[104+8+1]:], 1<<64-1) },
		"digest of another":  func(b []byte) { name(b)[b[104+8+1]+8] ^= 1 },
		"name out of order":  func(b []byte) { copy(name(b), "zzzzzz") },
		"name of 255 bytes":  func(b []byte) { b[104+8+1] = 255 },
		"names of no length": func(b []byte) { b[104+8+1] = 0 },
	} {
		b := append([]byte(nil), raw...)
		edit(b)
		le.PutUint64(b[len(b)-8:], xxh3.Hash(b[:len(b)-8]))
		if _, err := parseManifest(b); err == nil || strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	_, raw := example(f)
	f.Add(raw[:len(raw)-8])
	f.Add(raw[:manifestFixed])
	f.Fuzz(func(t *testing.T, body []byte) {
		// The checksum is put right, so that the fuzzer gets past it.
		b := binary.LittleEndian.AppendUint64(append([]byte(nil), body...), xxh3.Hash(body))
		m, err := parseManifest(b)
		_, judge := manifest.Unmarshal(b)
		if err == nil && len(m.files) > len(b) {
			t.Fatalf("%d files in %d bytes", len(m.files), len(b))
		}
		// This reader checks less than the one that installs, never more.
		if judge == nil && err != nil {
			t.Fatalf("refused a valid manifest: %v", err)
		}
	})
}
