package mvcc_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The scripts' language: `put key=a value=1 prev-kv`, `range key=a end=c rev=3
// limit=1 sort=mod,descend keys-only`. Values are Go-unquoted, so that \0 can
// be written. A transaction's input has one line per part:
//
//	if value key=a is 1
//	then put key=a value=2
//	then txn n
//	n.then range key=a

func argsOf(d *datadriven.TestData) []string {
	args := []string{d.Cmd}
	for _, a := range d.CmdArgs {
		args = append(args, strings.TrimSuffix(a.Key+"="+strings.Join(a.Vals, ","), "="))
	}
	return args
}

func unquote(t testing.TB, s string) []byte {
	u, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return []byte(u)
}

func number(t testing.TB, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// op collects the arguments of an operation of any kind.
type op struct {
	key, end, value []byte
	num             map[string]int64
	flag            map[string]bool
	sort            []string
}

func parseArgs(t testing.TB, args []string) op {
	o := op{num: map[string]int64{}, flag: map[string]bool{}}
	for _, a := range args {
		name, val, has := strings.Cut(a, "=")
		switch {
		case name == "key":
			o.key = unquote(t, val)
		case name == "end":
			o.end = unquote(t, val)
		case name == "value":
			o.value = unquote(t, val)
		case name == "sort":
			o.sort = strings.Split(val, ",")
		case has:
			o.num[name] = number(t, val)
		default:
			o.flag[name] = true
		}
	}
	return o
}

func parseOp(t testing.TB, args []string) *etcdserverpb.RequestOp {
	o := parseArgs(t, args[1:])
	switch args[0] {
	case "put":
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
			Key: o.key, Value: o.value, PrevKv: o.flag["prev-kv"], IgnoreValue: o.flag["ignore-value"],
			IgnoreLease: o.flag["ignore-lease"], Lease: o.num["lease"],
		}}}
	case "delete":
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{
			Key: o.key, RangeEnd: o.end, PrevKv: o.flag["prev-kv"],
		}}}
	case "range":
		r := &etcdserverpb.RangeRequest{
			Key: o.key, RangeEnd: o.end, Limit: o.num["limit"], Revision: o.num["rev"],
			KeysOnly: o.flag["keys-only"], CountOnly: o.flag["count-only"],
			MinModRevision: o.num["min-mod"], MaxModRevision: o.num["max-mod"],
			MinCreateRevision: o.num["min-create"], MaxCreateRevision: o.num["max-create"],
		}
		for _, s := range o.sort {
			up := strings.ToUpper(s)
			if v, ok := etcdserverpb.RangeRequest_SortTarget_value[up]; ok {
				r.SortTarget = etcdserverpb.RangeRequest_SortTarget(v)
			} else if v, ok := etcdserverpb.RangeRequest_SortOrder_value[up]; ok {
				r.SortOrder = etcdserverpb.RangeRequest_SortOrder(v)
			} else {
				r.SortOrder = 99
			}
		}
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
	case "nothing":
		return &etcdserverpb.RequestOp{}
	}
	t.Fatalf("unknown operation %q", args)
	return nil
}

func parseCompare(t testing.TB, f []string) *etcdserverpb.Compare {
	o := parseArgs(t, f[1:len(f)-2])
	c := &etcdserverpb.Compare{Key: o.key, RangeEnd: o.end}
	var ok bool
	if c.Result, ok = map[string]etcdserverpb.Compare_CompareResult{"is": etcdserverpb.Compare_EQUAL, "not": etcdserverpb.Compare_NOT_EQUAL,
		"over": etcdserverpb.Compare_GREATER, "under": etcdserverpb.Compare_LESS}[f[len(f)-2]]; !ok {
		t.Fatalf("comparison %q", f)
	}
	val := f[len(f)-1]
	switch f[0] {
	case "value":
		c.Target, c.TargetUnion = etcdserverpb.Compare_VALUE, &etcdserverpb.Compare_Value{Value: unquote(t, val)}
	case "version":
		c.Target, c.TargetUnion = etcdserverpb.Compare_VERSION, &etcdserverpb.Compare_Version{Version: number(t, val)}
	case "create":
		c.Target, c.TargetUnion = etcdserverpb.Compare_CREATE, &etcdserverpb.Compare_CreateRevision{CreateRevision: number(t, val)}
	case "mod":
		c.Target, c.TargetUnion = etcdserverpb.Compare_MOD, &etcdserverpb.Compare_ModRevision{ModRevision: number(t, val)}
	case "lease":
		c.Target, c.TargetUnion = etcdserverpb.Compare_LEASE, &etcdserverpb.Compare_Lease{Lease: number(t, val)}
	default:
		t.Fatalf("comparison %q", f)
	}
	return c
}

func parseTxn(t testing.TB, input string) *etcdserverpb.TxnRequest {
	txns := map[string]*etcdserverpb.TxnRequest{"": {}}
	for line := range strings.Lines(input) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		name, part, nested := strings.Cut(f[0], ".")
		if !nested {
			name, part = "", f[0]
		}
		txn := txns[name]
		if txn == nil {
			t.Fatalf("no transaction %q", name)
		}
		if part == "if" {
			txn.Compare = append(txn.Compare, parseCompare(t, f[1:]))
			continue
		}
		var o *etcdserverpb.RequestOp
		if f[1] == "txn" {
			txns[f[2]] = &etcdserverpb.TxnRequest{}
			o = &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: txns[f[2]]}}
		} else {
			o = parseOp(t, f[1:])
		}
		switch part {
		case "then":
			txn.Success = append(txn.Success, o)
		case "else":
			txn.Failure = append(txn.Failure, o)
		default:
			t.Fatalf("line %q", line)
		}
	}
	return txns[""]
}

func kvText(kv *mvccpb.KeyValue) string {
	s := fmt.Sprintf("%s=%s", strings.Trim(strconv.Quote(string(kv.GetKey())), `"`), strings.Trim(strconv.Quote(string(kv.GetValue())), `"`))
	return fmt.Sprintf("%s create=%d mod=%d version=%d", s, kv.GetCreateRevision(), kv.GetModRevision(), kv.GetVersion())
}

func prevText(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return ""
	}
	return " previous " + kvText(kv)
}

func printRange(out *strings.Builder, indent string, r *etcdserverpb.RangeResponse) {
	more := ""
	if r.GetMore() {
		more = " more"
	}
	fmt.Fprintf(out, "%srevision %d, count %d%s\n", indent, r.GetHeader().GetRevision(), r.GetCount(), more)
	for _, kv := range r.GetKvs() {
		fmt.Fprintf(out, "%s  %s\n", indent, kvText(kv))
	}
}

func printPut(out *strings.Builder, indent string, r *etcdserverpb.PutResponse) {
	fmt.Fprintf(out, "%srevision %d%s\n", indent, r.GetHeader().GetRevision(), prevText(r.GetPrevKv()))
}

func printDelete(out *strings.Builder, indent string, r *etcdserverpb.DeleteRangeResponse) {
	fmt.Fprintf(out, "%srevision %d, deleted %d\n", indent, r.GetHeader().GetRevision(), r.GetDeleted())
	for _, kv := range r.GetPrevKvs() {
		fmt.Fprintf(out, "%s  previous %s\n", indent, kvText(kv))
	}
}

func printTxn(out *strings.Builder, indent string, r *etcdserverpb.TxnResponse) {
	fmt.Fprintf(out, "%srevision %d, succeeded %t\n", indent, r.GetHeader().GetRevision(), r.GetSucceeded())
	for _, o := range r.GetResponses() {
		in := indent + "  "
		switch o := o.GetResponse().(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			printRange(out, in+"range: ", o.ResponseRange)
		case *etcdserverpb.ResponseOp_ResponsePut:
			printPut(out, in+"put: ", o.ResponsePut)
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			printDelete(out, in+"delete: ", o.ResponseDeleteRange)
		case *etcdserverpb.ResponseOp_ResponseTxn:
			printTxn(out, in+"txn: ", o.ResponseTxn)
		}
	}
}
