package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// engine is a Pebble store opened read-only, below what the store means.
type engine struct {
	fs     vfs.FS
	dir    string
	db     *pebble.DB
	o      *pebble.Options
	damage *damaged
}

// damaged collects what Pebble reports of damage. It reports from anywhere.
type damaged struct {
	mu    sync.Mutex
	paths []string
	fatal error // Pebble could not go on
}

func (d *damaged) stop(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fatal = errors.Join(d.fatal, err)
}

func (d *damaged) stopped() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fatal
}

func (d *damaged) add(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paths = append(d.paths, path)
}

// first gives the first file named, or "".
func (d *damaged) first() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.paths) == 0 {
		return ""
	}
	return d.paths[0]
}

// cacheBytes is enough: everything is read once.
const cacheBytes = 8 << 20

// openEngine opens the store in dir. An error is a fault.Error at the file that
// Pebble blames, or at dir.
func openEngine(fs vfs.FS, dir string, cmp *pebble.Comparer, format pebble.FormatMajorVersion, log *slog.Logger) (*engine, error) {
	e := &engine{fs: fs, dir: dir, damage: &damaged{}}
	e.o = &pebble.Options{
		FS: fs, Comparer: cmp, FormatMajorVersion: format, ReadOnly: true, ErrorIfNotExists: true, CacheSize: cacheBytes,
		Logger: engineLogger{log, e.damage},
		EventListener: &pebble.EventListener{
			DataCorruption:  func(i pebble.DataCorruptionInfo) { e.damage.add(i.Path) },
			BackgroundError: func(err error) { log.Debug("background work failed", "dir", dir, "err", err) },
		},
	}
	e.o.EnsureDefaults() // readers of single tables need what Open fills in
	db, err := guarded(func() (*pebble.DB, error) { return pebble.Open(dir, e.o) })
	if err = errors.Join(err, e.damage.stopped()); err != nil {
		return nil, e.blame("open store", err)
	}
	e.db = db
	return e, nil
}

func (e *engine) close() error {
	_, err := guarded(func() (struct{}, error) { return struct{}{}, e.db.Close() })
	return err
}

// blame makes err a Corrupt error at the file it is about.
func (e *engine) blame(op string, err error) error {
	path := e.damage.first()
	if path == "" {
		path = fileNamed(e.fs, e.dir, err)
	}
	return fault.New(fault.Corrupt, op, err).At(path)
}

// fileNamed gives the file of dir that the text of err names, by its name or by
// its number, else dir.
func fileNamed(fs vfs.FS, dir string, err error) string {
	names, lerr := fs.List(dir)
	if lerr != nil {
		return dir
	}
	text := err.Error()
	for _, stem := range []bool{false, true} {
		for _, name := range names {
			find := name
			if stem {
				find, _, _ = strings.Cut(name, ".")
			}
			if len(find) >= 6 && strings.Contains(text, find) {
				return fs.PathJoin(dir, name)
			}
		}
	}
	return dir
}

// tables lists the live table files, each once.
func (e *engine) tables() ([]string, error) {
	levels, err := e.db.SSTables()
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, level := range levels {
		for _, t := range level {
			name := fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// checksums reads every block of every live table and calls bad for each table
// that has a damaged one.
func (e *engine) checksums(ctx context.Context, bad func(path string, err error)) (tables int, err error) {
	names, err := e.tables()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return tables, err
		}
		path := e.fs.PathJoin(e.dir, name)
		if _, err := guarded(func() (struct{}, error) { return struct{}{}, e.checkTable(ctx, path) }); err != nil {
			bad(path, err)
		}
		tables++
	}
	return tables, nil
}

func (e *engine) checkTable(ctx context.Context, path string) error {
	f, err := e.fs.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, e.o.MakeReaderOptions())
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// levels checks the order of keys and versions in the whole store.
func (e *engine) levels() (points int64, err error) {
	stats := &pebble.CheckLevelsStats{}
	_, err = guarded(func() (struct{}, error) { return struct{}{}, e.db.CheckLevels(stats) })
	if err = errors.Join(err, e.damage.stopped()); err != nil {
		return 0, e.blame("check levels", err)
	}
	return stats.NumPoints, nil
}

// engineLogger sends Pebble's log to slog. Fatalf is Pebble saying that it can
// not go on; that must not end the process, which only judges.
type engineLogger struct {
	log    *slog.Logger
	damage *damaged
}

func (l engineLogger) Infof(string, ...any) {}

func (l engineLogger) Errorf(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...), "component", "pebble")
}

func (l engineLogger) Fatalf(format string, args ...any) {
	l.damage.stop(fmt.Errorf(format, args...))
}
