package store

import (
	"context"
	"errors"
)

// Space is what a store takes, in bytes.
type Space struct {
	Disk int64 // all of its files
	// InUse is what tables and the log hold, without files that are about to be
	// removed or used again. What was overwritten or deleted counts until it is
	// compacted.
	InUse int64
}

// Space asks the database, which costs some microseconds.
func (s *Store) Space() Space {
	m := s.db.Metrics()
	disk := int64(m.DiskSpaceUsage())
	return Space{Disk: disk, InUse: min(disk, int64(m.WAL.Size+m.Table.Local.LiveSize+m.BlobFiles.Local.LiveSize))}
}

// Compact rewrites the tables so that what was overwritten, deleted or pruned
// takes no space. Reads and writes go on meanwhile. It returns when that is done
// or ctx ends; one step that has begun goes on after that.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.broken(); err != nil {
		return err
	}
	err := s.db.Compact(ctx, []byte{byte(Meta)}, tableEnd(lastTable), false)
	switch {
	case err == nil:
		return s.broken()
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	}
	return s.classify("compact state store", err)
}
