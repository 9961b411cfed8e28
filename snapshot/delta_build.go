package snapshot

import (
	"context"
	"slices"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/span"
)

// apply fetches and writes what differs in some spans: the records whose hashes
// the source did not find here, or, whole, all of them.
func (d *Delta) apply(ctx context.Context, src SpanSource, differ spanSet, whole bool) error {
	if differ.count == 0 {
		return nil
	}
	a := &applier{ctx: ctx, d: d, src: src, total: differ.count}
	err := withWalk(d.base(), func(asking *span.Walk, _ span.Iterator) error {
		return withWalk(d.base(), func(writing *span.Walk, it span.Iterator) error { // the same records, later
			a.writing, a.compare = writing, it.Compare
			return d.spans(func(i uint64, after []byte, s span.Span) error {
				if i >= differ.total || !differ.has(i) {
					return nil
				}
				return a.ask(asking, after, s, whole)
			})
		})
	})
	return err
}

// applier goes through the spans that differ, a request at a time.
type applier struct {
	ctx     context.Context
	d       *Delta
	src     SpanSource
	writing *span.Walk
	compare func(a, b []byte) int
	req     span.Request
	at      []byte // where the walk that asks stands
	seeked  bool
	asked   uint64 // spans
	total   uint64
}

// ask adds a span to the request, and sends that when it is full or the last.
func (a *applier) ask(w *span.Walk, after []byte, s span.Span, whole bool) error {
	if err := a.ctx.Err(); err != nil {
		return failure("build state", a.d.dir, err)
	}
	if whole {
		a.req.Add(after, s.End, nil)
	} else {
		if !a.seeked || string(a.at) != string(after) {
			w.SeekAfter(after)
		}
		if _, err := ask(w, after, s, &a.req); err != nil {
			return err
		}
		a.seeked, a.at = true, append(a.at[:0], s.End...)
	}
	if a.asked++; !a.req.Full() && a.asked < a.total {
		return nil
	}
	if err := a.src.Diff(a.ctx, &a.req, a.compare, a.write); err != nil {
		return err
	}
	if err := a.d.raw.Apply(); err != nil {
		return err
	}
	a.req.Reset()
	if a.d.ahead != nil {
		a.d.ahead(a.asked, a.total)
	}
	return nil
}

// write makes the changes of one span.
func (a *applier) write(c span.Change) error {
	if c.Hashes == 0 || slices.ContainsFunc(c.Gone, func(b byte) bool { return b != 0 }) {
		a.writing.SeekAfter(c.After)
		i := 0
		_, err := a.writing.To(c.End, func(r span.Record) error {
			i++
			if !c.Deletes(i - 1) {
				return nil
			}
			return a.d.raw.Delete(r.Key)
		})
		if err != nil {
			return err
		}
	}
	for _, r := range c.Put {
		if err := a.d.raw.Set(r.Key, r.Value); err != nil {
			return err
		}
	}
	return nil
}

// prove captures the state and compares its records with the source's list.
func (d *Delta) prove(ctx context.Context) (seed *Seed, differ spanSet, err error) {
	c := capturer{fs: d.fs, chunkSize: chunk.Size}
	seed, err = c.capture(ctx, d.raw, d.fs.PathJoin(d.dir, deltaSeed))
	if err != nil {
		return nil, differ, err
	}
	seed.shared = d.shared
	reader, err := seed.OpenRecords()
	if err == nil {
		err = withWalk(reader, func(w *span.Walk, _ span.Iterator) error {
			return d.spans(func(_ uint64, _ []byte, s span.Span) error {
				if err := ctx.Err(); err != nil {
					return failure("build state", d.dir, err)
				}
				have, err := w.To(s.End, nil)
				differ.add(!have.Same(s))
				return err
			})
		})
		if cerr := reader.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		_ = seed.Remove() // the reason counts
		return nil, differ, err
	}
	return seed, differ, nil
}

// sameState compares what two manifests say of the state, whatever its files.
func sameState(have, want *manifest.Manifest) error {
	differs := func(what string, got, want any) error {
		return fault.Newf(fault.Corrupt, "build state", "%s: the state has %v, the source's manifest %v", what, got, want)
	}
	switch {
	case have.Position != want.Position:
		return differs("position", have.Position, want.Position)
	case have.Cluster != want.Cluster:
		return differs("cluster", have.Cluster, want.Cluster)
	case !slices.Equal(have.ConfState.Voters, want.ConfState.Voters) || !slices.Equal(have.ConfState.Learners, want.ConfState.Learners):
		return differs("configuration", have.ConfState, want.ConfState)
	case have.StateDigest != want.StateDigest:
		return differs("digest", have.StateDigest, want.StateDigest)
	case have.Revision != want.Revision:
		return differs("revision", have.Revision, want.Revision)
	case have.SchemaVersion != want.SchemaVersion:
		return differs("schema", have.SchemaVersion, want.SchemaVersion)
	}
	return nil
}

var _ Checkpointer = (*store.Raw)(nil)
