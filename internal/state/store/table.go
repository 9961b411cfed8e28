package store

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// CheckTable reads one table of a store and compares each of its blocks with the
// block's own checksum. One that is damaged is fault.Corrupt. It takes as long
// as reading the file.
func CheckTable(ctx context.Context, fs vfs.FS, path string) error {
	const op = "check table"
	f, err := fs.Open(path)
	if err != nil {
		return fault.New(fault.Internal, op, err).At(path)
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return fault.New(fault.Internal, op, errors.Join(err, f.Close())).At(path)
	}
	o := &pebble.Options{FS: fs, Comparer: Comparer()}
	o.EnsureDefaults()
	r, err := sstable.NewReader(ctx, readable, o.MakeReaderOptions()) // closes readable when it fails
	if err == nil {
		err = errors.Join(r.ValidateBlockChecksums(), r.Close())
	}
	if err != nil {
		return fault.New(fault.Corrupt, op, err).At(path).
			WithHint("this member's disk has damaged the table: seed from another member, then remove this one and seed it anew")
	}
	return nil
}
