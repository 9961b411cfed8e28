package raftlog

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(db *pebble.DB) error
		want  string // in the only finding; "": no finding
	}{
		{"a sound log", func(*pebble.DB) error { return nil }, ""},
		{"a missing entry", func(db *pebble.DB) error { return db.Delete(appendEntryKey(nil, 6), nil) }, "entry 7 where 6"},
		{"a missing first entry", func(db *pebble.DB) error { return db.Delete(appendEntryKey(nil, 5), nil) }, "entry 6 where 5"},
		{"a missing committed end", func(db *pebble.DB) error {
			return db.DeleteRange(appendEntryKey(nil, 7), []byte{keyEnd}, nil)
		}, "committed up to 7, but the log ends at 6"},
		{"an entry below the truncation point", func(db *pebble.DB) error { return setEntry(db, 3, entry(1, 3, "")) }, "entry 3 where 5"},
		{"an entry of another index", func(db *pebble.DB) error { return setEntry(db, 6, entry(2, 7, "")) }, "entry 6 says it is 7"},
		{"an entry without a term", func(db *pebble.DB) error { return setEntry(db, 6, entry(0, 6, "")) }, "no term"},
		{"a falling term", func(db *pebble.DB) error { return setEntry(db, 6, entry(1, 6, "")) }, "term 1 after term 2"},
		{"a term above the HardState", func(db *pebble.DB) error { return setEntry(db, 9, entry(3, 9, "")) }, "HardState of term 2 behind"},
		{"an entry that is no protobuf", func(db *pebble.DB) error {
			return db.Set(appendEntryKey(nil, 6), []byte{0xff}, nil)
		}, "entry 6: "},
		{"a stray key", func(db *pebble.DB) error { return db.Set([]byte("stray"), nil, nil) }, "entry key"},
		{"no format", func(db *pebble.DB) error { return db.Delete([]byte{keyFormat}, nil) }, "record 00 is missing"},
		{"another format", func(db *pebble.DB) error { return db.Set([]byte{keyFormat}, []byte("x"), nil) }, "not a Raft log"},
		{"no HardState", func(db *pebble.DB) error { return db.Delete([]byte{keyHard}, nil) }, "record 01 is missing"},
		{"a short HardState", func(db *pebble.DB) error { return db.Set([]byte{keyHard}, make([]byte, 23), nil) }, "HardState of 23 bytes"},
		{"a short truncation point", func(db *pebble.DB) error { return db.Set([]byte{keyTrunc}, nil, nil) }, "truncation point of 0 bytes"},
		{"a short state pointer", func(db *pebble.DB) error { return db.Set([]byte{keyState}, nil, nil) }, "state pointer of 0 bytes"},
		{"a truncation point above the commit", func(db *pebble.DB) error {
			return errors.Join(
				db.Set([]byte{keyTrunc}, encodeTrunc(ident.Position{Term: 2, Index: 8}), nil),
				db.DeleteRange([]byte{keyEntry}, []byte{keyEnd}, nil))
		}, "truncated to 8, but committed only up to 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := memOptions()
			spoilt(t, o, c.spoil)
			info, found, err := Inspect(testDir, o)
			if err != nil {
				t.Fatal(err)
			}
			_, openErr := openAndClose(o)
			if c.want == "" {
				if len(found) != 0 || openErr != nil {
					t.Fatalf("findings %v, open: %v", found, openErr)
				}
				want := Info{TruncatedTo: ident.Position{Term: 1, Index: 4}, Last: ident.Position{Term: 2, Index: 8},
					HardState: info.HardState, State: 3, Bytes: info.Bytes}
				if info != want || hardOf(info.HardState) != (hardState{2, 7, 7}) || info.Bytes == 0 {
					t.Errorf("info %+v", info)
				}
				return
			}
			details := ""
			for _, f := range found {
				details += f.Detail + "\n"
				if f.Code != fault.Corrupt || f.Path != testDir {
					t.Errorf("finding %+v", f)
				}
			}
			if !strings.Contains(details, c.want) {
				t.Errorf("findings %q, want %q", details, c.want)
			}
			if !fault.Is(openErr, fault.Corrupt) { // Open refuses all that Check finds
				t.Errorf("open: %v", openErr)
			}
		})
	}
}

// spoilt makes a log of entries 2/5..2/8 after 1/4 and changes its store.
func spoilt(t *testing.T, o Options, spoil func(db *pebble.DB) error) {
	t.Helper()
	l, err := Open(testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, Batch{Reset: &Reset{Position: ident.Position{Term: 1, Index: 4}, State: 3},
		Entries: run(2, 5, 8), HardState: hard(2, 7, 7)})
	if err := errors.Join(spoil(l.db), l.Close()); err != nil {
		t.Fatal(err)
	}
}

func openAndClose(o Options) (string, error) {
	l, err := Open(testDir, o)
	if err != nil {
		return "", err
	}
	s, err := print(l)
	return s, errors.Join(err, l.Close())
}

func TestNewerFormatIsRefused(t *testing.T) {
	o := memOptions()
	spoilt(t, o, func(db *pebble.DB) error {
		return db.Set([]byte{keyFormat}, append([]byte(formatMagic), 0, 2), nil)
	})
	_, err := Open(testDir, o)
	wantCode(t, err, fault.Refused)
	_, err = Check(testDir, o)
	wantCode(t, err, fault.Refused)
}

func TestCheckChangesNothing(t *testing.T) {
	o := memOptions()
	found, err := Check(testDir, o)
	if err != nil || len(found) != 1 || found[0].Code != fault.Corrupt {
		t.Errorf("a missing log: %v, %v", found, err)
	}
	if _, err := o.FS.Stat(testDir); err == nil {
		t.Error("Check made the directory")
	}
	spoilt(t, o, func(*pebble.DB) error { return nil })
	before, err := o.FS.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(testDir, o); err != nil {
		t.Fatal(err)
	}
	after, err := o.FS.List(testDir)
	if err != nil || len(after) != len(before) {
		t.Errorf("files %v, before %v (%v)", after, before, err)
	}
}

func TestLogInUse(t *testing.T) {
	o := memOptions()
	openTest(t, o)
	_, err := Open(testDir, o)
	wantCode(t, err, fault.InUse)
	_, err = Check(testDir, o)
	wantCode(t, err, fault.InUse)
}

// TestBitFlips flips bits in the files of a log. What comes of it is an error
// of class corrupt, or the log as it was.
func TestBitFlips(t *testing.T) {
	steps := workload()[:36]
	want := states(t, steps)[len(steps)]
	rng := rand.New(rand.NewPCG(7, 7))
	master := vfs.NewCrashableMem()
	p := &player{o: crashOptions(master)}
	if err := errors.Join(p.play(steps, nil), p.close()); err != nil {
		t.Fatal(err)
	}
	names, err := master.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	refused, accepted := map[string]int{}, map[string]int{}
	for _, name := range names {
		kind, flips := name[:min(len(name), 4)], 40
		if strings.HasSuffix(name, ".log") {
			kind, flips = "log", 10 // Pebble searches for the flipped bit, which takes long
		} else if strings.HasSuffix(name, ".sst") {
			kind = "sst"
		}
		for range flips {
			mem := master.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
			data, err := mem.UnsafeGetFileDataBuffer(testDir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) == 0 {
				break
			}
			data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
			got, openErr := openAndClose(crashOptions(mem))
			switch {
			case openErr == nil:
				accepted[kind]++
				if got != want {
					t.Errorf("%s: opened as %s", name, got)
				}
			case fault.Is(openErr, fault.Corrupt) || kind == "OPTI" || kind == "mark":
				refused[kind]++ // options and markers are text, which Pebble complains of in its own words
			default:
				t.Errorf("%s: code %q: %v", name, fault.CodeOf(openErr), openErr)
			}
		}
	}
	t.Logf("refused %v, accepted without effect %v", refused, accepted)
	if refused["sst"] == 0 || refused["MANI"] == 0 {
		t.Error("no flip was noticed in a whole class of files")
	}
}
