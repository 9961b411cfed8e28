package datadir

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// pairOf reads the pair of a side: "" when it is not whole.
func pairOf(t *testing.T, d *Dir, side string) string {
	t.Helper()
	cert, key, there, err := d.Certificate(side)
	if err != nil {
		t.Fatal(err)
	}
	if !there {
		return ""
	}
	var out string
	for _, path := range []string{cert, key} {
		f, err := d.fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		out += string(text)
	}
	return out
}

// TestWriteCertificateCrash: whatever happens on the way, a certificate and a key
// that are both there were written together, and the next attempt succeeds.
func TestWriteCertificateCrash(t *testing.T) {
	first := func(d *Dir) error { return d.WriteCertificate("peer", []byte("c1"), []byte("k1")) }
	second := func(d *Dir) error { return d.WriteCertificate("peer", []byte("c2"), []byte("k2")) }
	directory := func(d *Dir) error { return MkdirAllSynced(d.fs, d.path) }
	withFirst := func(d *Dir) error {
		if err := directory(d); err != nil {
			return err
		}
		return first(d)
	}
	for _, c := range []struct {
		name          string
		prepare, op   func(*Dir) error
		before, after string
	}{{"first", directory, first, "", "c1k1"}, {"again", withFirst, second, "c1k1", "c2k2"}} {
		t.Run(c.name, func(t *testing.T) {
			k := everyOp(t, c.prepare, c.op, func(d *Dir, how string) {
				if got := pairOf(t, d, "peer"); got != "" && got != c.before && got != c.after || how == "" && got != c.after {
					t.Errorf("crash before %q: %q", how, got)
				}
				if class, err := d.Classify(); class != Empty || err != nil {
					t.Errorf("crash before %q: %v, %v", how, class, err)
				}
				if err := second(d); err != nil || pairOf(t, d, "peer") != "c2k2" {
					t.Errorf("crash before %q, then again: %q, %v", how, pairOf(t, d, "peer"), err)
				}
			})
			if k < 8 {
				t.Errorf("%d operations", k)
			}
			everyFailure(t, c.prepare, c.op, func(k int, d *Dir, err error) {
				if got := pairOf(t, d, "peer"); got != "" && got != c.before && got != c.after || err == nil && got != c.after {
					t.Errorf("failure of operation %d (%v): %q", k, err, got)
				}
			})
		})
	}
}

// TestCertificateModes: nobody but the owner reads the key.
func TestCertificateModes(t *testing.T) {
	d := At(vfs.Default, t.TempDir())
	for range 2 { // also when it is replaced
		if err := d.WriteCertificate("client", []byte("c"), []byte("k")); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]os.FileMode{"fixtures": 0o700, "fixtures/client": 0o700, "fixtures/client/key.pem": 0o600} {
			info, err := os.Stat(filepath.Join(d.Path(), name))
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want %v", name, info, err, want)
			}
		}
	}
	if got := pairOf(t, d, "client"); got != "ck" {
		t.Errorf("%q", got)
	}
	if _, _, there, err := d.Certificate("peer"); there || err != nil {
		t.Errorf("a side without a certificate: %v, %v", there, err)
	}
}
