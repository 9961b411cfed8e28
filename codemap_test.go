package cfseed_test

// codeMap is the map of the code: every folder that holds Go code, and its
// level. Imports only point down; ARCHITECTURE.md draws the same picture. A
// folder that is not here fails the test: a new one is a decision.
var codeMap = map[string]int{
	"cmd/cfseed":                    6,
	"cmd/cfseed/internal/bench":     6,
	"cmd/cfseed/internal/cluster":   6,
	"cmd/cfseed/internal/command":   6,
	"cmd/cfseed/internal/demo":      6,
	"cmd/cfseed/internal/dial":      6,
	"cmd/cfseed/internal/etcd":      6,
	"cmd/cfseed/internal/kvbench":   6,
	"cmd/cfseed/internal/measure":   6,
	"cmd/cfseed/internal/netbench":  6,
	"cmd/cfseed/internal/output":    6,
	"cmd/cfseed/internal/plot":      6,
	"cmd/cfseed/internal/ports":     6,
	"cmd/cfseed/internal/rig":       6,
	"cmd/cfseed/internal/seedbench": 6,
	"cmd/cfseed/internal/workload":  6,

	"node":             5,
	"node/clusterapi":  5,
	"node/concurrency": 5,
	"node/e2e":         5,
	"node/etcdapi":     5,
	"node/join":        5,
	"node/lessor":      5,
	"node/peer":        5,
	"node/policy":      5,
	"node/raftloop":    5,
	"node/replica":     5,
	"node/sim":         5,
	"node/token":       5,
	"node/watch":       5,

	"transfer": 4,
	"verify":   4,

	"snapshot": 3,

	"internal/state": 2,

	"raftlog":                 1,
	"internal/datadir":        1,
	"internal/fault/rpcfault": 1,
	"internal/netsec":         1,
	"internal/state/alarm":    1,
	"internal/state/auth":     1,
	"internal/state/envelope": 1,
	"internal/state/lease":    1,
	"internal/state/member":   1,
	"internal/state/mvcc":     1,
	"internal/state/store":    1,
	"snapshot/archive":        1,
	"snapshot/chunk":          1,
	"snapshot/manifest":       1,
	"snapshot/record":         1,

	"internal/background":      0,
	"internal/failstop":        0,
	"internal/fault":           0,
	"internal/ident":           0,
	"internal/shape":           0,
	"proto/chainfire/entry/v1": 0,
	"proto/chainfire/v1":       0,
	"proto/v3electionpb":       0,
	"proto/v3lockpb":           0,
}

// planned are places of the map that hold no code yet.
var planned = []string{}

// sibling allows an import between two folders of one level.
type sibling struct {
	from, to string // patterns, see matches
	reason   string
}

// siblings are the only imports allowed inside a level. They form no circle
// (TestSiblingsFormNoCircle).
var siblings = []sibling{
	{"cmd/cfseed", "cmd/cfseed/internal/...", "the commands use the command line's own parts"},
	{"cmd/cfseed/internal/command", "cmd/cfseed/internal/{dial,output}", "the frame reads connection flags, prints errors and results"},
	{"cmd/cfseed/internal/demo", "cmd/cfseed/internal/{cluster,dial,output}", "the demo is a client of the cluster it starts"},
	{"cmd/cfseed/internal/bench", "cmd/cfseed/internal/{cluster,measure,output,rig,workload}", "a benchmark measures a loaded cluster"},
	{"cmd/cfseed/internal/seedbench", "cmd/cfseed/internal/{bench,cluster,etcd,measure,output,plot,rig,workload}", "its joins under load are those of the other benchmark"},
	{"cmd/cfseed/internal/netbench", "cmd/cfseed/internal/{cluster,measure,output}", "a benchmark starts clusters as the demo does"},
	{"cmd/cfseed/internal/kvbench", "cmd/cfseed/internal/{etcd,measure,output,rig,workload}", "a benchmark measures a loaded cluster, and etcd's beside it"},
	{"cmd/cfseed/internal/etcd", "cmd/cfseed/internal/measure", "what a process used is measured as for ours"},
	{"cmd/cfseed/internal/{cluster,etcd}", "cmd/cfseed/internal/ports", "a process is started again on the ports it had"},
	{"cmd/cfseed/internal/rig", "cmd/cfseed/internal/{cluster,measure,output,workload}", "a benchmark starts clusters as the demo does"},
	{"cmd/cfseed/internal/workload", "cmd/cfseed/internal/measure", "a load keeps the latency of its puts"},
	{"cmd/cfseed/internal/measure", "cmd/cfseed/internal/output", "rows are printed as every table is"},

	{"node", "node/...", "node is the assembly; it alone knows all of its parts"},
	{"node/e2e", "node/...", "whole-process tests"},
	{"node/lessor", "node/{replica,raftloop,policy}", "the timers of leases follow the leadership and propose"},
	{"node/sim", "node/{replica,raftloop,policy,lessor}", "the simulator drives the single-threaded heart on virtual time"},
	{"node/clusterapi", "node/policy", "what makes a ticket good is a pure function, which the simulator calls as well"},
	{"node/replica", "node/raftloop", "the replica turns the loop's steps into jobs"},

	{"proto/chainfire/v1", "proto/chainfire/entry/v1", "the services speak of positions and members as the log records them"},
	{"internal/state/{mvcc,lease,alarm,auth,member}", "internal/state/{store,envelope}", "tables lie over the store and know the kinds of entries"},
	{"internal/state/mvcc", "internal/state/lease", "a put attaches its key to a lease, and a delete detaches it"},
	{"snapshot/manifest", "snapshot/chunk", "a manifest counts in chunks"},
	{"snapshot/archive", "snapshot/{chunk,manifest}", "an archive is a manifest and the chunks that it counts"},
	{"raftlog", "internal/datadir", "the fsync recipe is written once"},
}

// denial forbids an import in non-test code, wherever levels stand.
type denial struct {
	from   string
	deny   string // an import path or a pattern of this module's folders
	except string // folders the rule does not speak of; may be empty
	reason string
}

// replicated are the folders that every member must compute alike.
const replicated = "internal/state{,/...}"

var denials = []denial{
	{replicated, "go.etcd.io/raft/...", "", "applying an entry knows nothing of leadership; a state machine that can ask diverges"},
	{replicated, "google.golang.org/grpc{,/...}", "", "applying an entry does not depend on a caller"},
	{replicated, "internal/fault/rpcfault", "", "applying an entry does not depend on a caller"},
	{replicated, "math/rand{,/v2}", "", "members would diverge"},
	{replicated, "crypto/rand", "", "members would diverge"},
	{"transfer{,/...}", "github.com/cockroachdb/pebble/...", "", "transfer moves chunks it is given; files belong to snapshot"},
	{"transfer{,/...}", "go.etcd.io/raft/...", "", "a stream does not know why it is wanted"},
	{"transfer{,/...}", "raftlog", "", "a stream does not know why it is wanted"},
	{"transfer{,/...}", "github.com/vbauerster/...", "", "progress is reported by callbacks"},
	{"verify{,/...}", "snapshot{,/...}", "", "the judge does not share code with what it judges; it has its own manifest reader"},
	{"verify{,/...}", "transfer{,/...}", "", "the judge does not share code with what it judges"},
	{"verify{,/...}", "node{,/...}", "", "the judge does not share code with what it judges"},
	{"snapshot{,/...}", "google.golang.org/grpc{,/...}", "", "snapshot deals in files; transfer carries them"},
	{"snapshot{,/...}", "go.etcd.io/raft/...", "", "snapshot reaches the log through raftlog.Seed alone"},
	{"raftlog", "internal/state{,/...}", "", "the log holds bytes; what they mean is not its business"},
	{"snapshot/{archive,chunk,manifest,record}", "internal/state{,/...}", "", "pure formats, fuzzed without a database"},
	{"snapshot/{archive,chunk,manifest,record}", "github.com/cockroachdb/pebble/...", "", "pure formats, fuzzed without a database"},
	{"{internal/...,proto/...,raftlog,snapshot{,/...},transfer{,/...},verify{,/...}}", "node{,/...}", "", "folders form no circle: nothing below node knows it"},
	{"...", "node/sim", "node/sim", "the simulator is test equipment"},
	{"...", "internal/shape", "cmd/cfseed/internal/netbench", "a bad line is test equipment"},
	{"...", "github.com/urfave/cli/...", "cmd/...", "flags are parsed in one place"},
	{"...", "github.com/vbauerster/...", "cmd/...", "terminals are drawn on in one place"},
	{"...", "testing", "node/sim", "test code does not belong in the product"},
	{"...", "pgregory.net/...", "node/sim", "test code does not belong in the product"},
	{"...", "github.com/anishathalye/...", "{node/sim,cmd/cfseed/internal/...}", "test code does not belong in the product"},
	{"...", "github.com/cockroachdb/datadriven", "", "test code does not belong in the product"},
	{"...", "go.uber.org/goleak", "", "test code does not belong in the product"},
	{"...", "log", "", "logging is log/slog, given by the caller"},
}

// clockDenied are the functions of package time that replicated code may not
// call: two members never read the same clock.
var clockDenied = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true,
	"Tick": true, "NewTimer": true, "NewTicker": true,
}

// emptyNames say nothing about what a package is for.
var emptyNames = map[string]bool{
	"util": true, "utils": true, "common": true, "helper": true, "helpers": true,
	"types": true, "misc": true, "base": true, "shared": true, "lib": true,
}
