package manifest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// file makes a consistent entry; its sums are derived from the name.
func file(kind Kind, name string, size uint64, chunkSize uint32) File {
	f := File{Kind: kind, Name: name, Size: size}
	for i := range chunk.Count(size, chunkSize) {
		f.Chunks = append(f.Chunks, chunk.Sum(fmt.Appendf(nil, "%s %d", name, i)))
	}
	f.Digest = FileDigest(f.Size, f.Chunks)
	return f
}

// sample is a valid manifest with two tables.
func sample() *Manifest {
	const cs = 1 << 20
	return &Manifest{
		Version:            Version,
		Cluster:            ident.Cluster{ID: 0xc1, Genesis: ident.Nonce{1, 2, 3}},
		Position:           ident.Position{Term: 4, Index: 1000},
		ConfState:          ConfState{Voters: []uint64{1, 2, 9}, Learners: []uint64{5}},
		Revision:           77,
		StateDigest:        [16]byte{0xaa, 0xbb},
		FormatMajorVersion: 24,
		SchemaVersion:      1,
		ChunkSize:          cs,
		Files: []File{
			file(KindTable, "000005.sst", 3<<20+1, cs),
			file(KindTable, "000007.sst", 17, cs),
			file(KindVersions, "MANIFEST-000001", 300, cs),
			file(KindOptions, "OPTIONS-000002", 1500, cs),
			file(KindMarker, "marker.format-version.000001.024", 0, cs),
			file(KindMarker, "marker.manifest.000001.MANIFEST-000001", 0, cs),
		},
	}
}

func mustMarshal(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFormat pins the bytes: a change here is a new format version.
func TestFormat(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		m := sample()
		switch d.Cmd {
		case "encode":
			return hex.Dump(mustMarshal(t, m))
		case "root":
			return fmt.Sprintf("%x\n", m.Root())
		case "file-digests":
			var b bytes.Buffer
			for i := range m.Files {
				fmt.Fprintf(&b, "%s %x\n", m.Files[i].Name, m.Files[i].Digest)
			}
			return b.String()
		}
		t.Fatalf("unknown command %s", d.Cmd)
		return ""
	})
}

func TestRoundTrip(t *testing.T) {
	m := sample()
	b := mustMarshal(t, m)
	got, err := Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Files { // nil and empty are the same
		if len(m.Files[i].Chunks) == 0 {
			m.Files[i].Chunks = nil
		}
	}
	if !reflect.DeepEqual(got, m) {
		t.Fatalf("got %+v\nwant %+v", got, m)
	}
	if got.Root() != m.Root() || got.Root() != RootOf(b) {
		t.Error("roots differ")
	}
	if m.TotalBytes() != 3<<20+1+17+300+1500 || m.TotalChunks() != 4+1+1+1 {
		t.Errorf("totals: %d bytes, %d chunks", m.TotalBytes(), m.TotalChunks())
	}
	clear(b) // nothing of the input is kept
	if got.Root() != m.Root() {
		t.Error("the manifest shares its input's memory")
	}
}

// Any single changed byte is refused.
func TestEveryByteCounts(t *testing.T) {
	b := mustMarshal(t, sample())
	for i := range b {
		for _, flip := range []byte{1, 0x80} {
			bad := slices.Clone(b)
			bad[i] ^= flip
			if _, err := Unmarshal(bad); err == nil {
				t.Fatalf("byte %d ^ %#x accepted", i, flip)
			}
		}
	}
	for n := range b {
		if _, err := Unmarshal(b[:n]); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := Unmarshal(append(slices.Clone(b), 0)); !fault.Is(err, fault.Corrupt) {
		t.Fatalf("a byte more: %v", err)
	}
}

func TestFileDigest(t *testing.T) {
	sums := make([]uint64, 2000) // crosses the inner buffer
	for i := range sums {
		sums[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	var flat []byte
	for _, v := range append([]uint64{12345}, sums...) {
		for s := 0; s < 64; s += 8 {
			flat = append(flat, byte(v>>s))
		}
	}
	if got := FileDigest(12345, sums); got != blake3.Sum256(flat) {
		t.Fatalf("got %x", got)
	}
	if FileDigest(12345, sums) == FileDigest(12346, sums) {
		t.Error("the size does not count")
	}
	if FileDigest(12345, sums) == FileDigest(12345, sums[:1999]) {
		t.Error("the last sum does not count")
	}
}

// Whatever valid manifest is made, its encoding reads back to itself.
func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawManifest(t)
		b, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unmarshal(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("not canonical: %v", err)
		}
	})
}

func drawManifest(t *rapid.T) *Manifest {
	nonZero := rapid.Uint64Range(1, 1<<64-1)
	m := sample()
	m.Cluster.ID = nonZero.Draw(t, "cluster")
	m.Position = ident.Position{Term: nonZero.Draw(t, "term"), Index: nonZero.Draw(t, "index")}
	m.Revision = rapid.Int64Range(0, 1<<62).Draw(t, "revision")
	m.ChunkSize = 1 << rapid.IntRange(12, 22).Draw(t, "chunk size")
	m.FormatMajorVersion = rapid.Uint64Range(1, 1200).Draw(t, "format")
	ids := rapid.SliceOfNDistinct(nonZero, 1, 12, rapid.ID).Draw(t, "members")
	n := rapid.IntRange(1, len(ids)).Draw(t, "voters")
	m.ConfState = ConfState{Voters: slices.Sorted(slices.Values(ids[:n])), Learners: slices.Sorted(slices.Values(ids[n:]))}
	number := rapid.Uint64Range(0, 2_000_000)
	versions := fmt.Sprintf("MANIFEST-%06d", number.Draw(t, "manifest number"))
	m.Files = []File{
		file(KindVersions, versions, 1000, m.ChunkSize),
		file(KindOptions, fmt.Sprintf("OPTIONS-%06d", number.Draw(t, "options number")), 10, m.ChunkSize),
		file(KindMarker, fmt.Sprintf("marker.format-version.000003.%03d", m.FormatMajorVersion), 0, m.ChunkSize),
		file(KindMarker, "marker.manifest.000002."+versions, 0, m.ChunkSize),
	}
	size := rapid.Uint64Range(1, 50<<20)
	for _, n := range rapid.SliceOfNDistinct(number, 0, 6, rapid.ID).Draw(t, "tables") {
		m.Files = append(m.Files, file(KindTable, fmt.Sprintf("%06d.sst", n), size.Draw(t, "size"), m.ChunkSize))
		m.Files = append(m.Files, file(KindBlob, fmt.Sprintf("%06d.blob", n), size.Draw(t, "size"), m.ChunkSize))
	}
	slices.SortFunc(m.Files, func(a, b File) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return m
}

// What is accepted is canonical, and nothing makes it panic.
func FuzzUnmarshal(f *testing.F) {
	f.Add(mustMarshal(f, sample()))
	for _, c := range malicious(f) {
		if len(c.encoded) < 1<<20 {
			f.Add(c.encoded)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, resum(b)} {
			m, err := Unmarshal(in)
			if err != nil {
				if code := fault.CodeOf(err); code != fault.Corrupt && code != fault.Refused {
					t.Fatalf("untyped error %v", err)
				}
				continue
			}
			again, err := m.Marshal()
			if err != nil || !bytes.Equal(again, in) {
				t.Fatalf("accepted, but not canonical: %v", err)
			}
		}
	})
}
