package store

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// A whole table passes; one with any bit changed, cut short or replaced does not.
func TestCheckTable(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	fill(t, s, 300)
	must(t, s.Close())
	names, err := fs.List("state-1")
	must(t, err)
	tables := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		tables++
		path := fs.PathJoin("state-1", name)
		check := func() error { return CheckTable(t.Context(), fs, path) }
		must(t, check())
		b, err := fs.UnsafeGetFileDataBuffer(path)
		must(t, err)
		for at := 0; at < len(b); at += 1 + len(b)/200 {
			b[at] ^= 4
			if err := check(); err != nil && !fault.Is(err, fault.Corrupt) || err == nil && at < len(b)-64 { // the footer is no block
				t.Errorf("%s with another bit in byte %d of %d: %v", name, at, len(b), err)
			}
			b[at] ^= 4
		}
		must(t, check())
		for what, content := range map[string][]byte{"half": b[:len(b)/2], "empty": nil, "noise": []byte(strings.Repeat("noise", 1000))} {
			f, err := fs.Create("state-1/broken.sst", vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.Write(append([]byte(nil), content...))
			must(t, err, f.Close())
			if err := CheckTable(t.Context(), fs, "state-1/broken.sst"); !fault.Is(err, fault.Corrupt) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if tables == 0 {
		t.Fatal("no table")
	}
	if err := CheckTable(t.Context(), fs, "state-1/absent.sst"); !fault.Is(err, fault.Internal) {
		t.Errorf("absent: %v", err)
	}
}
