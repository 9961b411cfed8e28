package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// memory is a seed in memory.
type memory struct {
	m     *manifest.Manifest
	files [][]byte
	fail  error
}

func (s *memory) Manifest() *manifest.Manifest { return s.m }

func (s *memory) ManifestBytes() []byte {
	b, err := s.m.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

func (s *memory) ReadChunk(_ context.Context, file, index int, _ []byte) ([]byte, error) {
	offset, n := chunk.Bounds(uint64(len(s.files[file])), s.m.ChunkSize, uint64(index))
	return s.files[file][offset : offset+uint64(n)], s.fail
}

// sample is a seed of files of these sizes.
func sample(t testing.TB, sizes ...int) *memory {
	t.Helper()
	s := &memory{m: &manifest.Manifest{Version: manifest.Version, ChunkSize: chunk.MinSize,
		Cluster: ident.Cluster{ID: 7, Genesis: ident.Nonce{1, 2, 3}}, Position: ident.Position{Term: 2, Index: 9}, Revision: 5,
		FormatMajorVersion: 13, SchemaVersion: 1}}
	s.m.ConfState.Voters = []uint64{1}
	names := []string{"000004.sst", "000005.sst", "MANIFEST-000001", "OPTIONS-000003", "marker.format-version.000001.013", "marker.manifest.000001.MANIFEST-000001"}
	for i, size := range sizes {
		data := bytes.Repeat([]byte{byte('a' + i)}, size)
		s.files = append(s.files, data)
		kind, ok := manifest.KindOf(names[i])
		if !ok {
			t.Fatal(names[i])
		}
		f := manifest.File{Kind: kind, Name: names[i], Size: uint64(size)}
		for offset := 0; offset < size; offset += chunk.MinSize {
			f.Chunks = append(f.Chunks, chunk.Sum(data[offset:min(offset+chunk.MinSize, size)]))
		}
		f.Digest = manifest.FileDigest(f.Size, f.Chunks)
		s.m.Files = append(s.m.Files, f)
	}
	if err := s.m.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func encode(t testing.TB, s *memory) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(context.Background(), &out, s); err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != Size(s) || out.Len()%512 != 32 {
		t.Errorf("%d bytes, said %d", out.Len(), Size(s))
	}
	return out.Bytes()
}

// readAll reads an archive to its end.
func readAll(b []byte) (files [][]byte, err error) {
	a, err := Open(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	files = make([][]byte, len(a.Manifest().Files))
	for {
		file, _, data, err := a.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		files[file] = append(files[file], data...)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, sizes := range [][]int{
		{chunk.MinSize + 1, 100, 300, 40, 0, 0}, {1, 2, 3, 4, 0, 0}, {3 * chunk.MinSize, chunk.MinSize, 7, 1, 0, 0},
	} {
		s := sample(t, sizes...)
		files, err := readAll(encode(t, s))
		if err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if !bytes.Equal(files[i], s.files[i]) {
				t.Errorf("%v: file %d has %d bytes", sizes, i, len(files[i]))
			}
		}
	}
}

// TestGolden pins the bytes: a change of them is another format.
func TestGolden(t *testing.T) {
	b := encode(t, sample(t, 5, 6, 3, 1, 0, 0))
	const head = "4346534545444152010000000b020000" + "43465345"
	if got := hex.EncodeToString(b[:20]); got != head {
		t.Errorf("head %s, want %s", got, head)
	}
	n := int(binary.LittleEndian.Uint32(b[12:]))
	if got := string(b[16+n : 16+n+15]); got != "aaaaabbbbbbcccd" {
		t.Errorf("files %q", got)
	}
	for _, z := range b[16+n+15 : len(b)-32] {
		if z != 0 {
			t.Fatal("no zeros before the hash")
		}
	}
	if sum := sha256.Sum256(b[:len(b)-32]); !bytes.Equal(sum[:], b[len(b)-32:]) {
		t.Error("the hash is another one")
	}
}

func TestRefuses(t *testing.T) {
	good := encode(t, sample(t, chunk.MinSize+1, 100, 300, 40, 0, 0))
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		code  fault.Code
	}{
		"nothing":             {func([]byte) []byte { return nil }, fault.Corrupt},
		"another file":        {func(b []byte) []byte { b[0] = 'X'; return b }, fault.Corrupt},
		"one of etcd":         {func(b []byte) []byte { return append(make([]byte, 16), 0xed, 0xda, 0x0c, 0xed, 2) }, fault.Refused},
		"one of nobody":       {func(b []byte) []byte { return append(make([]byte, 16), 0xed, 0xda) }, fault.Corrupt},
		"a newer one":         {func(b []byte) []byte { b[8] = 2; return b }, fault.Refused},
		"version 0":           {func(b []byte) []byte { b[8] = 0; return b }, fault.Corrupt},
		"reserved bytes":      {func(b []byte) []byte { b[10] = 1; return b }, fault.Corrupt},
		"a huge manifest":     {func(b []byte) []byte { b[15] = 0xff; return b }, fault.Corrupt},
		"a longer manifest":   {func(b []byte) []byte { b[14] = 0x10; return b }, fault.Corrupt},
		"a flipped manifest":  {func(b []byte) []byte { b[40] ^= 1; return b }, fault.Corrupt},
		"a flipped file":      {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, fault.Corrupt},
		"a flipped zero":      {func(b []byte) []byte { b[len(b)-33] ^= 1; return b }, fault.Corrupt},
		"a flipped hash":      {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, fault.Corrupt},
		"cut in the manifest": {func(b []byte) []byte { return b[:100] }, fault.Corrupt},
		"cut in a file":       {func(b []byte) []byte { return b[:len(b)/2] }, fault.Corrupt},
		"cut before the hash": {func(b []byte) []byte { return b[:len(b)-32] }, fault.Corrupt},
		"cut in the hash":     {func(b []byte) []byte { return b[:len(b)-1] }, fault.Corrupt},
		"one byte more":       {func(b []byte) []byte { return append(b, 0) }, fault.Corrupt},
	} {
		if _, err := readAll(c.spoil(bytes.Clone(good))); !fault.Is(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailuresPass(t *testing.T) {
	broken := errors.New("broken")
	s := sample(t, 10, 10, 10, 10, 0, 0)
	s.fail = broken
	if err := Write(context.Background(), io.Discard, s); !errors.Is(err, broken) {
		t.Errorf("a source that fails: %v", err)
	}
	s.fail = nil
	whole := encode(t, s)
	for n := range len(whole) {
		if err := Write(context.Background(), &full{n}, s); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("a disk with room for %d bytes: %v", n, err)
		}
	}
	a, err := Open(io.MultiReader(bytes.NewReader(whole[:560]), failing{broken}))
	for err == nil {
		_, _, _, err = a.Next()
	}
	if !errors.Is(err, broken) {
		t.Errorf("a disk that fails: %v", err)
	}
	if _, _, _, again := a.Next(); !errors.Is(again, broken) {
		t.Errorf("after a failure: %v", again)
	}
}

// TestCheck reads what Next has left, to the end.
func TestCheck(t *testing.T) {
	good := encode(t, sample(t, chunk.MinSize+1, 100, 300, 40, 0, 0))
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		b    []byte
		skip int
		code fault.Code
	}{
		"all": {t.Context(), good, 0, ""}, "the rest": {t.Context(), good, 2, ""}, "nothing": {t.Context(), good, 6, ""},
		"a wrong hash": {t.Context(), bad, 0, fault.Corrupt}, "interrupted": {cancelled, good, 0, fault.Interrupted},
	} {
		a, err := Open(bytes.NewReader(c.b))
		if err != nil {
			t.Fatal(err)
		}
		for range c.skip {
			if _, _, _, err := a.Next(); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if err := a.Check(c.ctx); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.room {
		return 0, io.ErrShortWrite
	}
	f.room -= len(p)
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzOpen(f *testing.F) {
	good := encode(f, sample(f, chunk.MinSize+1, 100, 300, 40, 0, 0))
	f.Add(good)
	f.Add(good[:200])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readAll(b); err != nil && !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Refused) {
			t.Errorf("%v", err)
		}
	})
}
