package state_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
)

// fixture is a machine on an in-memory file system.
type fixture struct {
	testing.TB
	fs *vfs.MemFS
	s  *store.Store
	m  *state.Machine
}

func open(t testing.TB, fs *vfs.MemFS) *fixture {
	t.Helper()
	f := &fixture{TB: t, fs: fs}
	f.load()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) load() {
	f.Helper()
	var err error
	if f.s, err = store.Open("state-1", store.Options{FS: f.fs, MemTableBytes: 256 << 10}); err != nil {
		f.Fatal(err)
	}
	if f.m, err = state.Open(f.s); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) close() {
	f.Helper()
	if f.s == nil {
		return
	}
	if err := f.s.Close(); err != nil {
		f.Error(err)
	}
	f.s = nil
}

func entry(index uint64, kind envelope.Kind, body proto.Message) state.Entry {
	b, err := proto.Marshal(body)
	if err != nil {
		panic(err)
	}
	return state.Entry{Index: index, Term: 1, Data: envelope.Envelope{Kind: kind, RequestID: 7, Body: b}.Append(nil)}
}

func (f *fixture) apply(kind envelope.Kind, body proto.Message) state.Result {
	f.Helper()
	res, err := f.m.Apply(entry(f.m.Applied().Index+1, kind, body))
	if err != nil {
		f.Fatal(err)
	}
	return res
}

func put(key, value string) *etcdserverpb.PutRequest {
	return &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func TestEmptyEntryMovesThePosition(t *testing.T) {
	f := open(t, vfs.NewMem())
	before := f.m.Digest()
	res, err := f.m.Apply(state.Entry{Index: 1, Term: 3})
	if err != nil || res.Kind != 0 || res.Response != nil || res.Err != nil {
		t.Fatal(res, err)
	}
	if p := f.m.Applied(); p.Index != 1 || p.Term != 3 || f.m.Digest() != before {
		t.Fatal(p)
	}
}

func TestRefusedEntryMovesThePositionOnly(t *testing.T) {
	f := open(t, vfs.NewMem())
	before := f.m.Digest()
	res := f.apply(envelope.Put, put("", "v"))
	if res.Err == nil || res.Response != nil || res.RequestID != 7 {
		t.Fatal(res)
	}
	if f.m.Applied().Index != 1 || f.m.Digest() != before || f.m.Revision() != 1 {
		t.Fatal(f.m.Applied(), f.m.Revision())
	}
}

func TestFatalEntries(t *testing.T) {
	good := entry(2, envelope.Put, put("k", "v"))
	for name, e := range map[string]state.Entry{
		"gap":            {Index: 3, Term: 1},
		"again":          {Index: 1, Term: 1},
		"older term":     {Index: 2, Term: 0},
		"unknown kind":   {Index: 2, Term: 1, Data: []byte{1, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0}},
		"short envelope": {Index: 2, Term: 1, Data: []byte{1}},
		"bad body":       {Index: 2, Term: 1, Data: append(append([]byte{}, good.Data[:envelope.HeaderSize]...), 0xff)},
		"conf as normal": {Index: 2, Term: 1, Data: envelope.Envelope{Kind: envelope.RemoveMember}.Append(nil)},
		"normal as conf": {Index: 2, Term: 1, Type: state.ConfChangeEntry, Conf: &state.ConfChange{Type: state.AddLearner}, Data: good.Data},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, vfs.NewMem())
			f.apply(envelope.Put, put("k", "v"))
			before := f.m.Digest()
			if _, err := f.m.Apply(e); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("got %v", err)
			}
			if _, err := f.m.Apply(good); err == nil {
				t.Fatal("went on after a fatal error")
			}
			if f.m.Applied().Index != 1 || f.m.Digest() != before {
				t.Fatal("a fatal entry left a trace")
			}
		})
	}
}

func TestConfChangesThatAreRefused(t *testing.T) {
	ctx := envelope.Envelope{Kind: envelope.AddLearner, RequestID: 9}.Append(nil)
	for name, e := range map[string]state.Entry{
		"no context":      {Conf: &state.ConfChange{Type: state.AddLearner, NodeID: 5}},
		"joint":           {Conf: &state.ConfChange{Type: state.Unsupported}, Data: ctx},
		"no change":       {Data: ctx},
		"foreign context": {Conf: &state.ConfChange{Type: state.AddLearner, NodeID: 5}, Data: ctx},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, vfs.NewMem())
			before := f.m.Digest()
			e.Index, e.Term, e.Type = 1, 1, state.ConfChangeEntry
			res, err := f.m.Apply(e)
			if err != nil || !fault.Is(res.Err, fault.Refused) || res.ConfChanged || res.ConfState != nil {
				t.Fatalf("%+v, %v", res, err)
			}
			if f.m.Applied().Index != 1 || f.m.Digest() != before {
				t.Fatal("a refused change left more than a position")
			}
		})
	}
}
