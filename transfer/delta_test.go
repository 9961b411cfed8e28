package transfer

import (
	"errors"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestPullByRecords: what a base shares is adopted; by ranges all tables are made of
// its records, by files none; and auto does one or the other with each.
func TestPullByRecords(t *testing.T) {
	seed := recordSeed(t, 6, 200_000)
	seed.records.hidden = func(file int) bool { return file == 4 }
	for _, by := range []string{DeltaAuto, DeltaFiles, DeltaRanges} {
		src := startSource(t, nil, []*memSeed{seed})
		d, disk := deltaOf(olderThan(seed, 20), 1), newMemDisk()
		d.shared[1] = seed.files[1]
		res, err := Pull(t.Context(), deltaConfig(d, by, disk, src.addr))
		if err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		disk.check(t, seed)
		made, shared := res.Made, uint64(len(seed.files[1]))
		if made.BytesShared != shared || d.adopted != 1 || res.BytesReused != shared+made.BytesMade || disk.twice != 0 {
			t.Errorf("%s: %+v, %d reused, adopted %d times; %d chunks came twice", by, made, res.BytesReused, d.adopted, disk.twice)
		}
		switch by {
		case DeltaFiles:
			if made.Tables != 0 || d.makes != 0 || made.BytesMoved != 0 {
				t.Errorf("files: %+v", made)
			}
		case DeltaRanges:
			if made.Tables != 4 || made.BytesMoved == 0 || made.BytesMoved > made.BytesMade/4 || d.asked == 0 {
				t.Errorf("ranges: %+v, %d records asked for", made, d.asked)
			}
			if want := made.BytesMoved + uint64(len(seed.files[4])); res.BytesWire < want || res.BytesWire > want+uint64(len(seed.encoded))+4096 {
				t.Errorf("ranges: %d bytes on the wire, want %d and the manifest", res.BytesWire, want)
			}
		}
	}
}

// What can not be made is fetched, whatever the reason, and after the third in a
// row, or the first that came out different, nothing else is tried.
func TestUnmadeIsFetched(t *testing.T) {
	seed := recordSeed(t, 12, 50_000)
	for name, tc := range map[string]struct {
		fail  func(file int) error
		alike bool
		most  int // tables begun
		least int // made
	}{
		"one table":    {func(f int) error { return when(f == 3, fault.Newf(fault.Corrupt, "read", "the base")) }, true, 12, 11},
		"all of them":  {func(int) error { return fault.Newf(fault.Corrupt, "read", "the base") }, true, maxUnmade + makers, 0},
		"not alike":    {nil, false, 2 * makers, 0},
		"no such disk": {func(int) error { return errors.New("gone") }, true, maxUnmade + makers, 0},
	} {
		for _, by := range []string{DeltaAuto, DeltaRanges} {
			src := startSource(t, nil, []*memSeed{seed})
			d, disk := deltaOf(olderThan(seed, 20)), newMemDisk()
			d.fail, d.alike = tc.fail, tc.alike
			res, err := Pull(t.Context(), deltaConfig(d, by, disk, src.addr))
			if err != nil {
				t.Fatalf("%s by %s: %v", name, by, err)
			}
			disk.check(t, seed)
			if d.makes > tc.most || by == DeltaRanges && res.Made.Tables < tc.least || res.Failovers != 0 {
				t.Errorf("%s by %s: %d begun, %+v, %d failovers", name, by, d.makes, res.Made, res.Failovers)
			}
		}
	}
}

// What takes much longer to make than to fetch is fetched in the end.
func TestSlowMakingIsGivenUp(t *testing.T) {
	seed := recordSeed(t, 6, 50_000)
	src := startSource(t, nil, []*memSeed{seed})
	d, disk := deltaOf(olderThan(seed, 20)), newMemDisk()
	d.hangs = true
	res, err := Pull(t.Context(), deltaConfig(d, DeltaAuto, disk, src.addr))
	if err != nil || res.Made.Tables != 0 || res.BytesReused != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	disk.check(t, seed)
}

func when(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

// A source that dies while tables are made is followed by another, which goes on
// with what is not there; one that only can not list is left to send files.
func TestMakingFailsOver(t *testing.T) {
	dying, seed := recordSeed(t, 8, 100_000), recordSeed(t, 8, 100_000)
	leases := newFakeLeases()
	first, second := startSource(t, leases, []*memSeed{dying}), startSource(t, leases, []*memSeed{seed})
	d, disk := deltaOf(olderThan(seed, 20)), newMemDisk()
	dying.records.each = func(i int) error {
		if lists, _ := dying.records.counts(); lists > 3 && i > 500 {
			first.wire.plan(func(w *wire) { w.refuse = true })
			first.wire.kill()
		}
		return nil
	}
	res, err := Pull(t.Context(), deltaConfig(d, DeltaRanges, disk, first.addr, second.addr))
	if err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	if res.Failovers != 1 || res.Made.Tables != 8 || d.adopted != 1 {
		t.Errorf("%d failovers, %+v, adopted %d times", res.Failovers, res.Made, d.adopted)
	}
	broken := recordSeed(t, 8, 100_000)
	broken.records.fail = fault.Newf(fault.Unreachable, "list", "no")
	src := startSource(t, nil, []*memSeed{broken})
	d, disk = deltaOf(olderThan(seed, 20)), newMemDisk()
	if res, err = Pull(t.Context(), deltaConfig(d, DeltaRanges, disk, src.addr)); err != nil || res.Made.Tables != 0 {
		t.Errorf("%+v, %v", res.Made, err)
	}
	disk.check(t, seed)
}

// A lease that ends while tables are made ends the pull.
func TestLeaseLostWhileMaking(t *testing.T) {
	seed := recordSeed(t, 4, 3<<20) // more than a turn
	src := startSource(t, nil, []*memSeed{seed})
	seed.records.each = func(i int) error {
		if i == 5 {
			src.leases.expireAll()
		}
		return nil
	}
	_, err := Pull(t.Context(), deltaConfig(deltaOf(olderThan(seed, 20)), DeltaRanges, newMemDisk(), src.addr))
	wantCode(t, err, fault.LeaseLost)
}
