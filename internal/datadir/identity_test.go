package datadir

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// TestGolden pins the bytes of the format: a diff of testdata/identity is a
// change of the format.
func TestGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/identity", func(t *testing.T, d *datadriven.TestData) string {
		b, err := encodeIdentity(sample(d.Cmd == "seeded"))
		if err != nil {
			t.Fatal(err)
		}
		return hex.Dump(b)
	})
}

func TestReadIdentity(t *testing.T) {
	d := At(vfs.NewMem(), testPath)
	if _, err := d.ReadIdentity(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadIdentity(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, seeded := range []bool{true, false} {
		if err := d.CommitIdentity(sample(seeded)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.ReadIdentity(); err != nil || !equal(got, sample(seeded)) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for name, bad := range map[string]Identity{
		"long name":     {Name: strings.Repeat("x", maxName+1)},
		"name not text": {Name: "\xff"},
	} {
		wantCode(t, d.CommitIdentity(bad), fault.Usage)
		if got, err := d.ReadIdentity(); err != nil || !equal(got, sample(false)) {
			t.Errorf("%s: the old identity is gone: %+v, %v", name, got, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fill := func(b []byte) {
			copy(b, rapid.SliceOfN(rapid.Byte(), len(b), len(b)).Draw(t, "bytes"))
		}
		num := rapid.Uint64()
		id := Identity{MemberID: num.Draw(t, "member"), Inode: num.Draw(t, "inode"),
			Name: rapid.StringN(-1, -1, maxName).Draw(t, "name")}
		id.Cluster.ID = num.Draw(t, "cluster")
		fill(id.Cluster.Genesis[:])
		fill(id.Directory[:])
		if rapid.Bool().Draw(t, "seeded") {
			id.Seed = &SeedRef{Position: ident.Position{Term: num.Draw(t, "term"), Index: num.Draw(t, "index")},
				LeaseID: num.Draw(t, "lease"), Joined: rapid.Bool().Draw(t, "joined")}
			fill(id.Seed.ManifestRoot[:])
		}
		b, err := encodeIdentity(id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeIdentity(b); err != nil || !equal(got, id) {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

// TestEveryBitCounts flips each bit and cuts at each length: all are noticed.
func TestEveryBitCounts(t *testing.T) {
	good, err := encodeIdentity(sample(true))
	if err != nil {
		t.Fatal(err)
	}
	d := At(vfs.NewMem(), testPath)
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	refuse := func(b []byte, what string, n int) {
		t.Helper()
		if err := WriteFileSynced(d.fs, d.Identity(), b); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadIdentity(); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s %d: %v", what, n, err)
		}
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		refuse(b, "bit", i)
	}
	for n := range good {
		refuse(good[:n], "cut at", n)
	}
	refuse(append(bytes.Clone(good), 0), "one byte more than", len(good))
	refuse(make([]byte, 1<<20), "zeros", 1<<20)
}

// reseal gives body a valid checksum.
func reseal(body []byte) []byte {
	sum := blake3.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func TestSealedNonsense(t *testing.T) {
	good, err := encodeIdentity(sample(true))
	if err != nil {
		t.Fatal(err)
	}
	body := good[:len(good)-sumSize]
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(body)
		copy(b[at:], to)
		return b
	}
	name := len(sample(true).Name)
	for what, c := range map[string]struct {
		body []byte
		code fault.Code
	}{
		"another magic":        {change(0, 'X'), fault.Corrupt},
		"a newer version":      {change(8, 0, 2), fault.Refused},
		"version 0":            {change(8, 0, 0), fault.Corrupt},
		"another length":       {change(10, 0, 0, 0, 1), fault.Corrupt},
		"a name too long":      {change(headerSize+56, 0xff, 0xff), fault.Corrupt},
		"a name not text":      {change(headerSize+58, 0xff), fault.Corrupt},
		"a seed flag of 2":     {change(headerSize+58+name, 2), fault.Corrupt},
		"no seed, but bytes":   {change(headerSize+58+name, 0), fault.Corrupt},
		"a joined flag of 255": {change(len(body)-1, 255), fault.Corrupt},
	} {
		if _, err := decodeIdentity(reseal(c.body)); err == nil || err.Code != c.code {
			t.Errorf("%s: %v, want %s", what, err, c.code)
		}
	}
}

// FuzzDecodeIdentity: an error or an identity that encodes to the same bytes.
// The checksum is made right, so that the fuzzer gets past it.
func FuzzDecodeIdentity(f *testing.F) {
	for _, seeded := range []bool{false, true} {
		b, err := encodeIdentity(sample(seeded))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-sumSize])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, b := range [][]byte{body, reseal(body)} {
			id, err := decodeIdentity(b)
			if err != nil {
				if err.Code != fault.Corrupt && err.Code != fault.Refused {
					t.Errorf("code %q", err.Code)
				}
				continue
			}
			if again, err := encodeIdentity(id); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x decodes and encodes to %x, %v", b, again, err)
			}
		}
	})
}
