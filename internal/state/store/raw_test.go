package store

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// rawRecords gives every record after a key as text.
func rawRecords(t *testing.T, r *Raw, after []byte) []string {
	t.Helper()
	it, err := r.Iterate()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	var last []byte
	for valid := it.SeekAfter(after); valid; valid = it.Next() {
		v, err := it.Value()
		if err != nil {
			t.Fatal(err)
		}
		if len(last) > 0 && it.Compare(last, it.Key()) >= 0 {
			t.Fatalf("%x before %x", last, it.Key())
		}
		last = bytes.Clone(it.Key())
		out = append(out, fmt.Sprintf("%x=%x", it.Key(), v))
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRaw: a copy made record by record is the store, and says so itself.
func TestRaw(t *testing.T) {
	fs := vfs.NewMem()
	st, err := Open("state", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(2); i < 200; i++ {
		b := st.NewBatch()
		b.SetRevision(i)
		err := errors.Join(
			b.SetVersion(fmt.Appendf(nil, "key-%d", i%50), Version{Revision: i, Live: i%7 > 0, Value: []byte("v")[:min(i%7, 1)]}, Version{}),
			b.Set(Alarms, []byte{byte(i)}, nil), b.Commit(ident.Position{Term: 1, Index: uint64(i)}), b.Close())
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	from, err := OpenRaw("state", Options{FS: fs, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	all := rawRecords(t, from, nil)
	if len(all) != 2+198+198 {
		t.Errorf("%d records", len(all))
	}
	empty, err := Open("copy", Options{FS: fs})
	if err == nil {
		err = empty.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	to, err := OpenRaw("copy", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	it, err := from.Iterate()
	if err != nil {
		t.Fatal(err)
	}
	for valid := it.SeekAfter(nil); valid; valid = it.Next() {
		v, err := it.Value()
		if err := errors.Join(err, to.Set(it.Key(), v)); err != nil {
			t.Fatal(err)
		}
	}
	if got := rawRecords(t, to, nil); len(got) != 2 {
		t.Errorf("%d records before they are applied", len(got))
	}
	if err := errors.Join(it.Err(), it.Close(), to.Apply()); err != nil {
		t.Fatal(err)
	}
	if got := rawRecords(t, to, nil); fmt.Sprint(got) != fmt.Sprint(all) {
		t.Error("the copy differs")
	}
	key := appendPrefix(nil, Alarms, []byte{100})
	if got := rawRecords(t, to, key); len(got) != 99 {
		t.Errorf("%d records after one that is there", len(got))
	}
	if err := errors.Join(to.Checkpoint("checkpoint"), to.Delete(key), to.Apply()); err != nil {
		t.Fatal(err)
	}
	if got := rawRecords(t, to, key); len(got) != 99 || len(rawRecords(t, to, nil)) != len(all)-1 {
		t.Errorf("%d records after one that was deleted", len(got))
	}
	extent, err := to.Extent()
	if err != nil || extent.Records < uint64(len(all)) || extent.Bytes == 0 || extent.DiskBytes == 0 || len(extent.Firsts) == 0 {
		t.Errorf("%+v, %v", extent, err)
	}
	if err := errors.Join(from.Close(), to.Close()); err != nil {
		t.Fatal(err)
	}
	was, err := Inspect("state", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if is, err := Inspect("checkpoint", Options{FS: fs}); err != nil || is.Position != was.Position || is.Digest != was.Digest || is.Revision != was.Revision {
		t.Errorf("%+v, want %+v, %v", is, was, err)
	}
}

// A directory without a store is not made one.
func TestRawOfNothing(t *testing.T) {
	fs := vfs.NewMem()
	for _, readOnly := range []bool{true, false} {
		if _, err := OpenRaw("nothing", Options{FS: fs, ReadOnly: readOnly}); !fault.Is(err, fault.Corrupt) {
			t.Errorf("read-only %t: %v", readOnly, err)
		}
	}
	if names, err := fs.List("/"); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}
