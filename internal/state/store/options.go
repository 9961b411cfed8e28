package store

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/failstop"
)

// FormatMajorVersion is the Pebble format that stores are created at: the
// newest stable one of v2.1. A manifest carries it, and a store of a newer
// format is refused.
const FormatMajorVersion = pebble.FormatValueSeparation

// Sizes used where Options leave them open, in bytes.
const (
	DefaultCacheBytes    = 32 << 20
	DefaultMemTableBytes = 16 << 20
)

// Options say how a store is opened. The zero value is usable.
type Options struct {
	FS            vfs.FS        // nil: the operating system's
	Cache         *pebble.Cache // shared block cache; nil: an own one of DefaultCacheBytes
	MemTableBytes uint64        // 0: DefaultMemTableBytes
	Logger        *slog.Logger  // nil: no log
	// OnCorruption is told of damage found and of writes that failed for good;
	// the store is unusable from then on. It may be called from any goroutine,
	// with Pebble's locks held: it must not call the store, nor block.
	OnCorruption func(error)
	// ReadOnly opens an existing store and leaves every file as it is: no lock
	// is taken, so the caller sees to it that nobody writes.
	ReadOnly bool
	// Brief is for a store that is opened to be read once: it is not compacted.
	// Pebble, when it can not open a store after all, does not wait for a
	// compaction that it has begun, and panics.
	Brief bool

	// Calm opens the store in a calm (Store.Calm), which EndCalm ends: compactions
	// that are due then take a processor, and the disk, from a member that has to
	// catch up.
	Calm bool

	compression *block.CompressionProfile // nil: the store's own; benchmarks compare others
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnCorruption == nil {
		o.OnCorruption = func(error) {}
	}
	if o.compression == nil {
		o.compression = block.FastestCompression // MinLZ, or Snappy where that is the faster one
	}
	return o
}

// pebbleOptions is the whole tuning of the database, for two cores and values
// from a few bytes to a few MiB.
func (s *Store) pebbleOptions() *pebble.Options {
	o := s.opts
	p := &pebble.Options{
		FS:                          failstop.WrapDir(o.FS, s.latch, s.dir),
		Cache:                       o.Cache,
		CacheSize:                   DefaultCacheBytes,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		CompactionConcurrencyRange:  s.compactions,
		MaxOpenFiles:                1000,
		ReadOnly:                    o.ReadOnly,
		ErrorIfNotExists:            o.ReadOnly,
		DisableAutomaticCompactions: o.Brief,
		Logger:                      pebbleLogger{s},
		EventListener: &pebble.EventListener{
			DataCorruption:  func(i pebble.DataCorruptionInfo) { _ = s.latch.Fail(i.Details) },
			BackgroundError: s.backgroundError,
		},
	}
	if o.ReadOnly {
		p.FS = unlockedFS{o.FS}
	}
	p.TargetFileSizes[0] = 4 << 20
	o.shapeTables(p)
	return p
}

// shapeTables sets what the bytes of a table depend on besides its records. A
// table that is written again by TableWriter comes out the same only where this
// is the same.
func (o Options) shapeTables(p *pebble.Options) {
	p.Comparer = Comparer()
	p.FormatMajorVersion = FormatMajorVersion
	p.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: false}
	}
	for i := range p.Levels {
		p.Levels[i] = pebble.LevelOptions{
			BlockSize:      16 << 10,
			IndexBlockSize: 128 << 10,
			FilterPolicy:   bloom.FilterPolicy(10),
			Compression:    func() *block.CompressionProfile { return o.compression },
		}
	}
}

// backgroundError hears of flushes and compactions that failed for another
// reason than a write. Pebble repeats them, so only damage is final.
func (s *Store) backgroundError(err error) {
	if pebble.IsCorruptionError(err) {
		_ = s.latch.Fail(err)
		return
	}
	s.opts.Logger.Warn("state store background work failed", "dir", s.dir, "err", err)
}

// pebbleLogger sends Pebble's log to slog. Pebble calls Fatalf when it can not
// go on (a WAL or MANIFEST write failed) and expects the process to end; here
// the store fails instead, and every later call says so.
type pebbleLogger struct{ s *Store }

func (l pebbleLogger) Infof(format string, args ...any) {
	l.s.opts.Logger.Debug(fmt.Sprintf(format, args...), "component", "pebble", "dir", l.s.dir)
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.opts.Logger.Error(fmt.Sprintf(format, args...), "component", "pebble", "dir", l.s.dir)
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	if len(args) == 1 && strings.HasSuffix(format, "%v") {
		format = strings.ReplaceAll(format, "%v", "%w") // keep the cause's class
	}
	_ = l.s.latch.Fail(fmt.Errorf(format, args...))
}

// unlockedFS leaves no LOCK file behind in a directory that is only read.
type unlockedFS struct{ vfs.FS }

// Lock grants a lock that is none.
func (unlockedFS) Lock(string) (io.Closer, error) { return noLock{}, nil }

// Unwrap gives the file system underneath.
func (u unlockedFS) Unwrap() vfs.FS { return u.FS }

type noLock struct{}

func (noLock) Close() error { return nil }
