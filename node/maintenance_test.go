package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
)

// fill puts noise under new keys until it is refused for want of space.
func fill(t *testing.T, c *clientv3.Client, most int) {
	t.Helper()
	value := make([]byte, 64<<10)
	for i := 0; ; i++ {
		if _, err := rand.Read(value); err != nil {
			t.Fatal(err)
		}
		_, err := c.Put(within(t), fmt.Sprintf("fill/%04d", i), string(value))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if i*len(value) > most {
			t.Fatalf("%d bytes are put and nothing was refused", most)
		}
	}
}

// TestQuota is the life of a member that runs out of space: what adds is
// refused until room is made and the alarm disarmed.
func TestQuota(t *testing.T) {
	const limit = 2 << 20
	n := start(t, "full", Config{Quota: limit}).ready()
	c := etcdClient(t, n)
	fill(t, c, 2*limit)
	alarms, err := c.AlarmList(within(t))
	if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].GetAlarm() != pb.AlarmType_NOSPACE || ident.FormatID(alarms.Alarms[0].GetMemberID()) != n.id {
		t.Fatalf("%v, %v", alarms, err)
	}
	st, err := c.Status(within(t), c.Endpoints()[0])
	if err != nil || st.DbSizeQuota != limit || st.DbSizeInUse > st.DbSize || len(st.Errors) != 1 ||
		st.Errors[0] != fmt.Sprintf("memberID:%d alarm:NOSPACE", st.Header.GetMemberId()) {
		t.Errorf("%v, %v", st, err)
	}
	for name, call := range map[string]func() error{
		"put":   func() error { _, err := c.Put(within(t), "k", ""); return err },
		"grant": func() error { _, err := c.Grant(within(t), 60); return err },
		"txn":   func() error { _, err := c.Txn(within(t)).Then(clientv3.OpPut("k", "")).Commit(); return err },
	} {
		if err := call(); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Get(within(t), "fill", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil {
		t.Error(err)
	}
	if _, err := c.Txn(within(t)).Then(clientv3.OpDelete("fill/0000")).Commit(); err != nil {
		t.Error(err)
	}
	gone, err := c.Delete(within(t), "fill", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(within(t), gone.Header.GetRevision()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Defragment(within(t), c.Endpoints()[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(within(t), "k", ""); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("there is room, but the alarm stands: %v", err)
	}
	after, err := c.Status(within(t), c.Endpoints()[0])
	if err != nil || after.DbSizeInUse > limit/4 {
		t.Errorf("in use %d before, %d after a defragmentation, %v", st.DbSizeInUse, after.DbSizeInUse, err)
	}
	if _, err := c.AlarmDisarm(within(t), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	put(t, c, "k", "works again")
	fill(t, c, 2*limit)
}

// TestQuotaOfAFollower: a member whose own quota is passed raises the alarm,
// though clients ask another one; each tells the quota that it has.
func TestQuotaOfAFollower(t *testing.T) {
	small := false
	leader, _, _ := parted(t, func(c *Config) {
		c.MemTableBytes = 1 << 20
		if c.Quota = 64 << 20; !small {
			c.Quota, small = 1<<20, true
		}
	})
	c := leader.clientOf()
	fill(t, c, 48<<20) // takes longer than the member waits between two looks
	alarms, err := c.AlarmList(within(t))
	if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].GetAlarm() != pb.AlarmType_NOSPACE {
		t.Errorf("%v, %v", alarms, err)
	}
}

func TestQuotaIsReckoned(t *testing.T) {
	if q := newQuota(-1, &stateBox{}); !q.fits(1 << 40) {
		t.Error("no limit, and full")
	}
	q := newQuota(1<<20, &stateBox{}) // of a member that is stopping
	if !q.fits(1 << 30) {
		t.Error("refused without a figure")
	}
	q.asked, q.size = time.Now(), 1<<20-1000
	for i := range 5 {
		if !q.fits(100) {
			t.Errorf("%d: what is let in since the last look counts twice", i)
		}
	}
	if q.charged != 500 {
		t.Errorf("%d bytes were let in", q.charged)
	}
}

// TestHashKVIsEqual: members with equal keys have equal hashes at a revision.
func TestHashKVIsEqual(t *testing.T) {
	leader, _, rest := parted(t, func(*Config) {})
	c := leader.clientOf()
	for i := range 20 {
		put(t, c, fmt.Sprint("k", i%7), fmt.Sprint(i))
	}
	seen := map[string]bool{}
	for _, s := range append(rest, leader) {
		at := s.clientOf()
		if _, err := at.Get(within(t), "k0"); err != nil { // it has applied all
			t.Fatal(err)
		}
		for _, rev := range []int64{0, 10, 21} {
			h, err := at.HashKV(within(t), at.Endpoints()[0], rev)
			if err != nil || h.CompactRevision != -1 || h.Header.GetRevision() != 21 || rev > 0 && h.HashRevision != rev {
				t.Fatalf("%v, %v", h, err)
			}
			seen[fmt.Sprint(h.HashRevision, h.Hash)] = true
		}
		if _, err := at.HashKV(within(t), at.Endpoints()[0], 22); !errors.Is(err, rpctypes.ErrFutureRev) {
			t.Error(err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("%v", seen)
	}
}

func TestMoveLeader(t *testing.T) {
	leader, follower, rest := parted(t, func(*Config) {})
	if _, err := follower.clientOf().MoveLeader(within(t), follower.id()); !errors.Is(err, rpctypes.ErrNotLeader) {
		t.Errorf("a follower moves the leader: %v", err)
	}
	c := leader.clientOf()
	if _, err := c.MoveLeader(within(t), 12345); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
		t.Errorf("to nobody: %v", err)
	}
	if _, err := c.MoveLeader(within(t), leader.id()); err != nil || !leader.status().IsLeader() {
		t.Errorf("to itself: %v", err)
	}
	if _, err := c.MoveLeader(within(t), rest[1].id()); err != nil {
		t.Fatal(err)
	}
	if at := leader.leader.current(); at != rest[1].id() {
		t.Errorf("%x leads", at)
	}
	waitFor(t, "it knows", func() bool { return rest[1].status().IsLeader() })
	c = rest[1].clientOf()
	if err := leader.end(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the silence is noticed", func() bool { return !rest[1].status().Progress[leader.id()].RecentActive })
	if _, err := c.MoveLeader(within(t), leader.id()); err == nil || !strings.Contains(err.Error(), "not in contact") {
		t.Errorf("to one that is away: %v", err)
	}
}

// TestLongReadGivesWay: what reads long lets a Raft snapshot replace the state.
func TestLongReadGivesWay(t *testing.T) {
	fs := vfs.NewMem()
	first, second := openTestMachine(t, fs, "state-1"), openTestMachine(t, fs, "state-2")
	box := &stateBox{}
	box.set(first)
	reading, read := make(chan struct{}), make(chan error, 1)
	go func() {
		read <- box.readLong(t.Context(), func(ctx context.Context, m *state.Machine) error {
			close(reading)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-reading
	if err := box.replace(func() (*state.Machine, error) { return second, nil }); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, errReplaced) || !fault.Is(err, fault.Unreachable) {
		t.Errorf("%v", err)
	}
	if err := box.readLong(t.Context(), func(_ context.Context, m *state.Machine) error {
		if m != second {
			t.Error("the old state is read")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := box.close(); err != nil {
		t.Error(err)
	}
}

func TestDiffering(t *testing.T) {
	same, other, third := [16]byte{1}, [16]byte{2}, [16]byte{3}
	for name, c := range map[string]struct {
		got     map[uint64][16]byte
		members int
		want    []uint64
	}{
		"alone":                    {map[uint64][16]byte{1: same}, 1, nil},
		"equal":                    {map[uint64][16]byte{1: same, 2: same, 3: same}, 3, nil},
		"one does not answer":      {map[uint64][16]byte{1: same, 2: same}, 3, nil},
		"one differs":              {map[uint64][16]byte{1: same, 2: other, 3: same}, 3, []uint64{2}},
		"the leader differs":       {map[uint64][16]byte{1: other, 2: same, 3: same}, 3, []uint64{1}},
		"two of five differ":       {map[uint64][16]byte{1: other, 2: same, 3: same, 4: third, 5: same}, 5, []uint64{1, 4}},
		"one against one":          {map[uint64][16]byte{1: other, 2: same}, 2, []uint64{0}},
		"no majority for a member": {map[uint64][16]byte{1: same, 2: other}, 3, []uint64{0}},
		"three opinions":           {map[uint64][16]byte{1: same, 2: other, 3: third}, 3, []uint64{0}},
	} {
		if got := slices.Sorted(slices.Values(differing(c.got, c.members))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestMemberThatDiffersRaisesAlarm: the leader finds a member with other data;
// nothing is written from then on, reads go on, and the member is named.
func TestMemberThatDiffersRaisesAlarm(t *testing.T) {
	leader, follower, _ := parted(t, func(c *Config) { c.CorruptCheck = 50 * time.Millisecond })
	c := leader.clientOf()
	put(t, c, "k", "v")
	id := follower.id()
	if err := follower.end(); err != nil {
		t.Fatal(err)
	}
	falsify(t, follower.n.dir.State(1))
	follower.run()
	var alarms *clientv3.AlarmResponse
	waitFor(t, "an alarm", func() bool {
		var err error
		if alarms, err = c.AlarmList(within(t)); err != nil {
			t.Fatal(err)
		}
		return len(alarms.Alarms) > 0
	})
	if a := alarms.Alarms[0]; len(alarms.Alarms) != 1 || a.GetAlarm() != pb.AlarmType_CORRUPT || a.GetMemberID() != id {
		t.Errorf("%v", alarms.Alarms)
	}
	if _, err := c.Put(within(t), "k", "w"); !errors.Is(err, rpctypes.ErrCorrupt) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.Delete(within(t), "k"); !errors.Is(err, rpctypes.ErrCorrupt) {
		t.Errorf("delete: %v", err)
	}
	if res, err := c.Get(within(t), "k"); err != nil || len(res.Kvs) != 1 {
		t.Errorf("get: %v, %v", res, err)
	}
	code, body := get(t, leader.n.cfg.AdvertiseClient[0]+"/readyz")
	if code != http.StatusServiceUnavailable || body != "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n\n" {
		t.Errorf("%d %q", code, body)
	}
}

// falsify changes what a stopped member's state says of its digest.
func falsify(t *testing.T, dir string) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{Comparer: store.Comparer(), FormatMajorVersion: store.FormatMajorVersion})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var key, value []byte
	for ok := it.First(); ok && key == nil; ok = it.Next() {
		if bytes.Contains(it.Key(), []byte("head")) {
			key, value = bytes.Clone(it.Key()), bytes.Clone(it.Value())
		}
	}
	value[20] ^= 1 // within the digest
	if err := errors.Join(it.Close(), db.Set(key, value, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// get makes an HTTP request.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestHTTPBesideGRPC: the clients' address answers etcd's pages, the metrics'
// address as well, with a leader and without.
func TestHTTPBesideGRPC(t *testing.T) {
	both := foundWith(t, func(c *Config) { c.ListenMetrics = []string{"http://127.0.0.1:0"} }, "a", "b")
	at := both[0].n.cfg.AdvertiseClient[0]
	metrics := "http://" + both[0].n.fronts.metrics[0].Addr().String()
	put(t, both[0].clientOf(), "k", "v")
	want := map[string]string{
		"/health":         `200 {"health":"true","reason":""}`,
		"/version":        `200 {"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"unknown"}`,
		"/livez":          "200 ok\n",
		"/readyz?verbose": "200 [+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
		"/readyz?verbose&exclude=x&exclude=non_learner": "200 [+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n",
		"/readyz/linearizable_read?verbose":             "200 [+]linearizable_read ok\nok\n",
		"/absent":                                       "404 404 page not found\n",
	}
	check := func(where string, want map[string]string) {
		t.Helper()
		for _, path := range slices.Sorted(maps.Keys(want)) {
			var got string
			if !waitsFor(func() bool { // an election may be under way
				code, body := get(t, where+path)
				got = fmt.Sprint(code, " ", body)
				return got == want[path]
			}) {
				t.Errorf("%s: %q, want %q", path, got, want[path])
			}
		}
	}
	check(at, want)
	check(metrics, want)
	for _, where := range []string{at, metrics} {
		if code, body := get(t, where+"/metrics"); code != 200 || !strings.Contains(body, "\ncfseed_has_leader 1\n") {
			t.Errorf("%d %s", code, body)
		}
	}
	if err := both[1].end(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "no leader", func() bool { return both[0].leader.current() == 0 })
	check(at, map[string]string{
		"/health":                           `503 {"health":"false","reason":"RAFT NO LEADER"}` + "\n",
		"/health?serializable=true":         `200 {"health":"true","reason":""}`,
		"/livez":                            "200 ok\n",
		"/readyz":                           "503 [+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: etcdserver: no leader\n[+]non_learner ok\n\n",
		"/readyz?exclude=linearizable_read": "200 ok\n",
		"/readyz/serializable_read":         "200 ok\n",
	})
}

// TestWebBeforeAMember: a node that waits for its seed has metrics to show.
func TestWebBeforeAMember(t *testing.T) {
	m := bootstrappedWeb(t)
	for path, want := range map[string]int{"/metrics": 200, "/health": 503, "/version": 503} {
		if code, body := get(t, m+path); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// bootstrappedWeb serves the metrics' address of a node that runs no member.
func bootstrappedWeb(t *testing.T) string {
	t.Helper()
	cfg, err := Config{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"},
		ListenMetrics: []string{"http://127.0.0.1:0"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	f, err := openFronts(t.Context(), &cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + f.metrics[0].Addr().String()
}
