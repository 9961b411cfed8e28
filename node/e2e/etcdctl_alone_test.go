//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ctlAlone is of one member, and of etcd's own, which answers all the same.
func ctlAlone(t *testing.T, e etcdctl) {
	const often = "--watch-progress-notify-interval"
	c := NewCluster(t, often, "100ms")
	ours := e.at(c.Start("n1"))
	all := func(e etcdctl, header string) {
		aloneKeys(e)
		aloneTxn(e)
		aloneFormats(e)
		aloneOptions(e)
		aloneWatch(e, header)
		aloneRoles(e)
	}
	all(ours, "10")
	t.Run("etcd", func(t *testing.T) {
		theirs := etcdctl{t: t, path: e.path, endpoints: startEtcd(c, buildEtcd(t), often, "100ms")}
		all(theirs, "14")
	})
	file := filepath.Join(c.Dir, "snapshot")
	if got, want := ours.must("snapshot", "save", file), "Snapshot saved at "+file+"\nServer version cfseed-archive-1\n"; got != want {
		t.Errorf("snapshot save: %q, want %q", got, want)
	}
	if r := c.CLI("snapshot", "inspect", file); r.Code != 0 || r.Num("revision") <= 1 {
		t.Errorf("snapshot inspect: %s", r)
	}
	const notHere = "rpc error: code = Unimplemented desc = etcdserver: downgrade is not supported: an earlier program reads what it knows, or refuses to start"
	ours.refused(notHere, "downgrade", "validate", "3.6.0")
	ours.refused(notHere, "downgrade", "enable", "3.6.0")
	ours.refused("etcdserver: no inflight downgrade job", "downgrade", "cancel")
}

// aloneKeys leaves k/6 at revision 13.
func aloneKeys(e etcdctl) {
	e.t.Helper()
	e.says(says{"put k/1 one", "OK\n"}, says{"put k/2 two", "OK\n"}, says{"put k/1 three", "OK\n"})
	if r := e.input("from stdin", "put", "k/3"); r.Code != 0 || r.Stdout != "OK\n" {
		e.t.Errorf("put of stdin: %s", r)
	}
	e.says(
		says{"put k/4 four", "OK\n"},
		says{"get k/3", "k/3\nfrom stdin\n"},
		says{"get k/ --prefix --keys-only --min-create-rev 3", "k/2\n\nk/3\n\nk/4\n\n"},
		says{"get k/ --prefix --keys-only --max-create-rev 3", "k/1\n\nk/2\n\n"},
		says{"get k/ --prefix --keys-only --max-mod-rev 3", "k/2\n\n"},
		says{"get k/ --prefix --keys-only --sort-by KEY --order ASCEND", "k/1\n\nk/2\n\nk/3\n\nk/4\n\n"},
		says{"get k/ --prefix --stream", "k/1\nthree\nk/2\ntwo\nk/3\nfrom stdin\nk/4\nfour\n"},
		says{"get k/ --prefix --stream --limit 2 --rev 3", "k/1\none\nk/2\ntwo\n"},
		says{"get k/1 --hex", "\\x6b\\x2f\\x31\n\\x74\\x68\\x72\\x65\\x65\n"},
		says{"put k/2 --ignore-value", "OK\n"},
		says{"put k/2 --ignore-value --prev-kv", "OK\nk/2\ntwo\n"},
		says{"del k/1 k/2 --prev-kv --range", "1\nk/1\nthree\n"},
		says{"del k/1 --range", "0\n"},
		says{"del k/4 --from-key", "1\n"},
		says{"put k/5 x", "OK\n"},
		says{"put k/6 y", "OK\n"},
		says{"del k/5 k/6 --range", "1\n"},
		says{"get k/ --prefix --keys-only", "k/2\n\nk/3\n\nk/6\n\n"},
	)
	if text := e.must("endpoint", "hashkv", "--rev", "3"); !strings.HasPrefix(text, e.endpoints+", ") || !strings.HasSuffix(text, ", 3\n") {
		e.t.Errorf("hashkv: %q", text)
	}
	if linear, local := e.must("member", "list"), e.must("member", "list", "--consistency", "s"); local != linear || strings.Count(local, "\n") != 1 {
		e.t.Errorf("member list: %q, and %q", local, linear)
	}
}

// aloneTxn writes revision 14.
func aloneTxn(e etcdctl) {
	e.t.Helper()
	const said = "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\nSUCCESS\n\nOK\n\nk/6\ny\n"
	if r := e.input("mod(\"k/6\") = \"12\"\n\nput k/7 seven\nget k/6\n\n\n", "txn", "--interactive"); r.Code != 0 || r.Stdout != said {
		e.t.Errorf("txn: %s", r)
	}
}

// aloneFormats reads one key in all the formats.
func aloneFormats(e etcdctl) {
	e.t.Helper()
	var asJSON struct{ Header struct{ Revision int64 } }
	if text := e.must("get", "k/6", "-w", "json"); json.Unmarshal([]byte(text), &asJSON) != nil || asJSON.Header.Revision != 14 {
		e.t.Errorf("JSON: %s", text)
	}
	var message pb.RangeResponse
	if text := e.must("get", "k/6", "-w", "protobuf"); proto.Unmarshal([]byte(text), &message) != nil || string(message.GetKvs()[0].GetValue()) != "y" {
		e.t.Errorf("protobuf: %q", text)
	}
	const fields = "\"Key\" : \"k/6\"\n\"CreateRevision\" : 12\n\"ModRevision\" : 12\n\"Version\" : 1\n\"Value\" : \"y\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n"
	if text := e.must("get", "k/6", "-w", "fields"); !strings.HasSuffix(text, fields) {
		e.t.Errorf("fields: %s", text)
	}
	for _, command := range []string{"endpoint status", "endpoint health", "endpoint hashkv", "member list"} {
		for _, format := range []string{"json", "fields", "table"} {
			if text := e.must(append(strings.Fields(command), "-w", format)...); !strings.Contains(text, strings.TrimPrefix(e.endpoints, "http://")) {
				e.t.Errorf("%s as %s: %s", command, format, text)
			}
		}
	}
}

// aloneOptions is the flags of all commands that a member in the clear can show.
func aloneOptions(e etcdctl) {
	e.t.Helper()
	e.says(says{"get k/6 --dial-timeout 9s --command-timeout 9s --keepalive-time 10s --keepalive-timeout 9s --max-recv-bytes 99 --max-request-bytes 99 --insecure-transport=true", "k/6\ny\n"})
	e.refused("context deadline exceeded", "get", "k/6", "--command-timeout", "1ns")
	e.refused("rpc error: code = ResourceExhausted desc = trying to send message larger than max (17 vs. 5)", "put", "k/6", "0123456789", "--max-request-bytes", "5")
	if r := e.run("get", "k/6", "--max-recv-bytes", "5"); r.Code != 1 || !strings.Contains(r.Stderr, "Error: rpc error: code = ResourceExhausted desc = grpc: received message larger than max (") {
		e.t.Errorf("a small answer: %s", r)
	}
	if r := e.run("get", "k/6", "--debug"); r.Code != 0 || r.Stdout != "k/6\ny\n" || !strings.Contains(r.Stderr, "ETCDCTL_DEBUG=true\n") {
		e.t.Errorf("debug: %s", r)
	}
}

// aloneWatch watches the past by words on stdin, hears of progress, and runs a
// command for each event; header is the revision that a response of the past has.
func aloneWatch(e etcdctl, header string) {
	e.t.Helper()
	w := e.begin("watch", "--interactive")
	w.hears("watch k/7 --rev 1 --prev-kv")
	for _, line := range []string{"PUT", "k/7", "seven"} {
		w.says(line)
	}
	w.hears("progress")
	w.says("progress notify: 14")
	w.hears("watch k/2 k/4 --rev 7")
	for _, line := range []string{"PUT", "k/2", "two", "PUT", "k/2", "two"} {
		w.says(line)
	}
	w.interrupt()

	quiet := e.begin("watch", "quiet", "--progress-notify")
	quiet.says("progress notify: 14")
	quiet.says("progress notify: 14")
	quiet.interrupt()

	exec := e.begin("watch", "k/4", "--rev", "5", "--", "sh", "-c", "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE")
	for _, line := range []string{"PUT", "k/4", "four", "DELETE", "k/4", "", header + ` "PUT" "k/4" "four"`, header + ` "DELETE" "k/4" ""`} {
		exec.says(line)
	}
	exec.interrupt()
	const tooMany = "`range_end` and `--prefix` are mutually exclusive"
	if r := e.run("watch", "a", "b", "--prefix"); r.Code != 128 || r.Stderr != "Error: "+tooMany+"\n" {
		e.t.Errorf("watch: %s", r)
	}
}

// aloneRoles grants and revokes every kind of permission.
func aloneRoles(e etcdctl) {
	e.t.Helper()
	if r := e.input("pw\n", "user", "add", "u", "--interactive=false"); r.Code != 0 || r.Stdout != "User u created\n" {
		e.t.Errorf("user add: %s", r)
	}
	const permissions = "KV Read:\n\t[a, b) (prefix a)\n\tq\n\t[z, <open ended>\nKV Write:\n\t[a, b) (prefix a)\n\t[p/, p0) (prefix p/)\n"
	e.says(
		says{"role add ro", "Role ro created\n"},
		says{"role grant-permission ro readwrite a b", "Role ro updated\n"},
		says{"role grant-permission ro read z --from-key", "Role ro updated\n"},
		says{"role grant-permission ro write p/ --prefix", "Role ro updated\n"},
		says{"role grant-permission ro read q", "Role ro updated\n"},
		says{"user grant-role u ro", "Role ro is granted to user u\n"},
		says{"user get u --detail", "User: u\n\nRole ro\n" + permissions},
		says{"role get ro", "Role ro\n" + permissions},
		says{"role revoke-permission ro z --from-key", "Permission of range [z, <open ended> is revoked from role ro\n"},
		says{"role revoke-permission ro p/ --prefix", "Permission of range [p/, p0) is revoked from role ro\n"},
		says{"role revoke-permission ro q", "Permission of key q is revoked from role ro\n"},
		says{"role revoke-permission ro a b", "Permission of range [a, b) is revoked from role ro\n"},
		says{"role get ro", "Role ro\nKV Read:\nKV Write:\n"},
	)
	e.refused("etcdserver: permission is not granted to the role", "role", "revoke-permission", "ro", "q")
}

// ctlItself is the commands that ask no server.
func ctlItself(t *testing.T, e etcdctl) {
	if text := e.must("version"); !strings.HasPrefix(text, "etcdctl version: 3.7.") || !strings.HasSuffix(text, "\nAPI version: 3.7\n") {
		t.Errorf("version: %q", text)
	}
	if text := e.must("help", "make-mirror"); !strings.Contains(text, "etcdctl make-mirror [options] <destination>") {
		t.Errorf("help: %q", text)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if text := e.must("completion", shell); !strings.Contains(text, "etcdctl") || !strings.Contains(text, "__complete") {
			t.Errorf("completion for %s: %q", shell, text)
		}
	}
}
