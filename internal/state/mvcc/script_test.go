package mvcc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

// script is a store driven by commands, one entry per writing command.
type script struct {
	t     testing.TB
	s     *store.Store
	index uint64
}

func newScript(t testing.TB) *script {
	s, err := store.Open("state-1", store.Options{FS: vfs.NewMem(), MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	sc := &script{t: t, s: s}
	t.Cleanup(func() {
		if err := sc.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return sc
}

// write runs one entry; a refusal leaves only the position.
func (s *script) write(fn func(b *store.Batch) error) error {
	s.index++
	b := s.s.NewBatch()
	err := fn(b)
	if err != nil {
		if rerr := b.Rollback(); rerr != nil {
			s.t.Fatal(rerr)
		}
	}
	if cerr := errors.Join(b.Commit(ident.Position{Term: 1, Index: s.index}), b.Close()); cerr != nil {
		s.t.Fatal(cerr)
	}
	return err
}

func (s *script) read(fn func(v *store.View) error) error {
	v := s.s.View()
	defer func() {
		if err := v.Close(); err != nil {
			s.t.Fatal(err)
		}
	}()
	return fn(v)
}

func (s *script) purge(limit int) (more bool) {
	err := s.read(func(v *store.View) error {
		p := s.s.NewPrune()
		var err error
		if more, err = mvcc.Purge(v, p, limit); err != nil {
			return err
		}
		return errors.Join(p.Commit(), p.Close())
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return more
}

// purgeLast goes on until all is done, and says how often.
func (s *script) purgeLast(limit int) (steps int) {
	var after []byte
	for more := true; more; steps++ {
		err := s.read(func(v *store.View) error {
			p := s.s.NewPrune()
			var err error
			if after, err = mvcc.PurgeLast(v, p, after, limit); err != nil {
				return err
			}
			return errors.Join(p.Commit(), p.Close())
		})
		if err != nil {
			s.t.Fatal(err)
		}
		more = after != nil
	}
	return steps
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") || strings.Contains(path, "rapid") {
			return
		}
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			var out strings.Builder
			if err := s.run(d, &out); err != nil {
				fmt.Fprintf(&out, "error: %s\n", rpctypes.ErrorDesc(err))
			}
			return out.String()
		})
	})
}

func (s *script) run(d *datadriven.TestData, out *strings.Builder) error {
	switch d.Cmd {
	case "put", "delete", "txn", "compact", "bump":
		return s.write(func(b *store.Batch) error { return s.entry(b, d, out) })
	case "range":
		return s.read(func(v *store.View) error {
			resp, err := mvcc.Range(context.Background(), v, parseOp(s.t, argsOf(d)).GetRequestRange())
			if err == nil {
				printRange(out, "", resp)
			}
			return err
		})
	case "txn-read":
		return s.read(func(v *store.View) error {
			resp, err := mvcc.TxnRead(context.Background(), v, parseTxn(s.t, d.Input))
			if err == nil {
				printTxn(out, "", resp)
			}
			return err
		})
	case "purge":
		limit := 1000
		d.MaybeScanArgs(s.t, "limit", &limit)
		fmt.Fprintf(out, "more=%t\n", s.purge(limit))
		return nil
	case "purge-last":
		limit := 1000
		d.MaybeScanArgs(s.t, "limit", &limit)
		fmt.Fprintf(out, "in %d steps\n", s.purgeLast(limit))
		return nil
	case "changes":
		var from int64
		d.ScanArgs(s.t, "from", &from)
		return s.read(func(v *store.View) error {
			return mvcc.Changes(context.Background(), v, from, d.HasArg("prev"), func(ev *mvccpb.Event) error {
				fmt.Fprintf(out, "%s %s%s\n", ev.GetType(), kvText(ev.GetKv()), prevText(ev.GetPrevKv()))
				return nil
			})
		})
	case "dump":
		return s.read(func(v *store.View) error { return dump(v, out) })
	}
	s.t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	return nil
}

func (s *script) entry(b *store.Batch, d *datadriven.TestData, out *strings.Builder) error {
	switch d.Cmd {
	case "put":
		resp, err := mvcc.Put(b, parseOp(s.t, argsOf(d)).GetRequestPut())
		if err == nil {
			printPut(out, "", resp)
		}
		return err
	case "delete":
		resp, err := mvcc.DeleteRange(b, parseOp(s.t, argsOf(d)).GetRequestDeleteRange())
		if err == nil {
			printDelete(out, "", resp)
		}
		return err
	case "txn":
		resp, err := mvcc.Txn(b, parseTxn(s.t, d.Input))
		if err == nil {
			printTxn(out, "", resp)
		}
		return err
	}
	if d.Cmd == "bump" {
		var by uint64
		d.ScanArgs(s.t, "by", &by)
		return mvcc.Bump(b, by)
	}
	var rev int64
	d.ScanArgs(s.t, "rev", &rev)
	resp, err := mvcc.Compact(b, &etcdserverpb.CompactionRequest{Revision: rev})
	if err == nil {
		fmt.Fprintf(out, "revision %d\n", resp.GetHeader().GetRevision())
	}
	return err
}

// dump shows what is stored of every key, and the rows of the revisions table.
func dump(v *store.View, out *strings.Builder) error {
	var keys [][]byte
	seen := map[string]bool{}
	note := func(key []byte) {
		if !seen[string(key)] {
			seen[string(key)] = true
			keys = append(keys, append([]byte(nil), key...))
		}
	}
	var rows []string
	err := v.ScanFrom(store.Revisions, nil, func(row, key []byte) error {
		rows = append(rows, fmt.Sprintf("%x %s", row, key))
		note(key)
		return nil
	})
	if err != nil {
		return err
	}
	err = v.ScanVersions(store.MVCC, nil, nil, 1<<62, func(key []byte, _ store.Version) error { note(key); return nil })
	if err != nil {
		return err
	}
	for _, key := range keys {
		revs, err := v.Older(store.MVCC, key, 1<<62)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: versions %v\n", key, revs)
	}
	for _, r := range rows {
		fmt.Fprintf(out, "row %s\n", r)
	}
	return nil
}
