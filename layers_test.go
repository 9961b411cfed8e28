// Package cfseed_test holds the rules of this repository as ordinary tests: the
// code map and its reasons, what a package, a file and a document must look
// like. It reads the source in process and runs nothing.
package cfseed_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const modulePath = "github.com/chainfire/cfseed"

// goFile is one parsed file that is not a test.
type goFile struct {
	dir, path string
	fset      *token.FileSet
	ast       *ast.File
	generated bool
}

// source parses every .go file of tree; tests says whether files ending in
// _test.go are wanted, or all others.
func source(tree fs.FS, tests bool) ([]goFile, error) {
	var files []goFile
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") != tests {
			return nil
		}
		text, err := fs.ReadFile(tree, p)
		if err != nil {
			return err
		}
		f := goFile{dir: path.Dir(p), path: p, fset: token.NewFileSet()}
		if f.ast, err = parser.ParseFile(f.fset, p, text, parser.ParseComments); err != nil {
			return err
		}
		f.generated = ast.IsGenerated(f.ast)
		files = append(files, f)
		return nil
	})
	return files, err
}

func (f goFile) imports() []string {
	var out []string
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// matches reports whether the slash-separated name fits the pattern: "..." at
// the end stands for anything, {a,b} for either (nested braces are allowed).
func matches(pattern, name string) bool {
	for _, p := range expand(pattern) {
		if rest, ok := strings.CutSuffix(p, "..."); ok && strings.HasPrefix(name, rest) || p == name {
			return true
		}
	}
	return false
}

// expand gives the alternatives of a pattern with braces.
func expand(pattern string) []string {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}
	}
	var (
		alternatives []string
		depth        int
		start        = open + 1
	)
	for i := open; i < len(pattern); i++ {
		switch pattern[i] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if (depth == 1 && pattern[i] == ',') || depth == 0 {
			alternatives = append(alternatives, pattern[start:i])
			start = i + 1
		}
		if depth == 0 {
			break
		}
	}
	var out []string
	for _, a := range alternatives {
		for _, middle := range expand(a) {
			for _, tail := range expand(pattern[start:]) {
				out = append(out, pattern[:open]+middle+tail)
			}
		}
	}
	return out
}

// violations gives every breach of the code map in tree, one line each, sorted.
func violations(tree fs.FS) ([]string, error) {
	files, err := source(tree, false)
	if err != nil {
		return nil, err
	}
	var out []string
	report := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, f := range files {
		if _, known := codeMap[f.dir]; !known {
			report("%s: unknown package %s: add it to the code map", f.path, f.dir)
			continue
		}
		if name := f.ast.Name.Name; emptyNames[name] || emptyNames[path.Base(f.dir)] {
			report("%s: package %s: a name must say what the package is for", f.path, name)
		}
		for _, imp := range f.imports() {
			folder, inside := strings.CutPrefix(imp, modulePath+"/")
			if inside {
				checkLevels(f, folder, report)
			} else {
				folder = imp
			}
			for _, d := range denials {
				if matches(d.from, f.dir) && matches(d.deny, folder) && !matches(d.except, f.dir) {
					report("%s: imports %s: %s", f.path, folder, d.reason)
				}
			}
		}
		if matches(replicated, f.dir) {
			checkClock(f, report)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func checkLevels(f goFile, folder string, report func(string, ...any)) {
	from := codeMap[f.dir]
	to, known := codeMap[folder]
	if !known {
		report("%s: imports unknown package %s: add it to the code map", f.path, folder)
		return
	}
	if to < from {
		return
	}
	if to > from {
		report("%s: level %d imports %s of level %d: imports only point down", f.path, from, folder, to)
		return
	}
	for _, s := range siblings {
		if matches(s.from, f.dir) && matches(s.to, folder) {
			return
		}
	}
	report("%s: imports its sibling %s: not in the list of siblings", f.path, folder)
}

// checkClock looks for calls of the clock by name, through whatever name the
// file gives package time.
func checkClock(f goFile, report func(string, ...any)) {
	clock := ""
	for _, spec := range f.ast.Imports {
		if spec.Path.Value != `"time"` {
			continue
		}
		clock = "time"
		if spec.Name != nil {
			clock = spec.Name.Name
		}
	}
	if clock == "" {
		return
	}
	if clock == "." {
		report("%s: imports time by dot: the clock can not be seen", f.path)
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !clockDenied[sel.Sel.Name] {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == clock {
			report("%s: time.%s: members never read the same clock", f.path, sel.Sel.Name)
		}
		return true
	})
}

func TestImportsFollowTheCodeMap(t *testing.T) {
	found, err := violations(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		t.Error(v)
	}
}

func TestSiblingsFormNoCircle(t *testing.T) {
	var visit func(dir string, trail []string)
	visit = func(dir string, trail []string) {
		if slices.Contains(trail, dir) {
			t.Errorf("circle: %s", strings.Join(append(trail, dir), " -> "))
			return
		}
		for to := range codeMap {
			for _, s := range siblings {
				if to != dir && matches(s.from, dir) && matches(s.to, to) {
					visit(to, append(slices.Clone(trail), dir))
				}
			}
		}
	}
	for dir := range codeMap {
		visit(dir, nil)
	}
}

// TestEveryRuleMatchesSomething guards against rules that silently say nothing:
// a folder renamed, a pattern misspelt.
func TestEveryRuleMatchesSomething(t *testing.T) {
	mapped := func(pattern string) bool {
		for dir := range codeMap {
			if matches(pattern, dir) {
				return true
			}
		}
		return false
	}
	for _, s := range siblings {
		if s.reason == "" || !mapped(s.from) || !mapped(s.to) {
			t.Errorf("sibling rule %+v matches no folder or has no reason", s)
		}
	}
	for _, d := range denials {
		if d.reason == "" || !mapped(d.from) || (d.except != "" && !mapped(d.except)) {
			t.Errorf("denial %+v matches no folder or has no reason", d)
		}
	}
}

// fake builds a tree in which each package of want's files is one file.
func fake(files map[string]string) fs.FS {
	tree := fstest.MapFS{}
	for p, text := range files {
		tree[p] = &fstest.MapFile{Data: []byte(text)}
	}
	return tree
}

// TestViolationsAreReported runs the checker on trees that break one rule each.
func TestViolationsAreReported(t *testing.T) {
	imp := func(pkg string, imports ...string) string {
		text := "package " + pkg + "\n"
		for _, i := range imports {
			if strings.HasPrefix(i, "./") {
				i = modulePath + i[1:]
			}
			text += fmt.Sprintf("import _ %q\n", i)
		}
		return text
	}
	tests := []struct {
		name, path, text string
		want             string // part of the only violation; empty = none
	}{
		{"clean", "internal/state/x.go", imp("state", "./internal/state/store", "fmt"), ""},
		{"tests are free", "internal/state/x_test.go", imp("state", "./node"), ""},
		{"testdata is not code", "raftlog/testdata/x.go", imp("state", "./node"), ""},
		{"a module for tests is not ours", "testdata/etcdctl/main.go", imp("main", "./node"), ""},
		{"upward", "snapshot/x.go", imp("snapshot", "./transfer"), "imports only point down"},
		{"unknown package", "internal/new/x.go", imp("new"), "unknown package internal/new"},
		{"unknown import", "raftlog/x.go", imp("raftlog", "./internal/new"), "imports unknown package internal/new"},
		{"root package", "x.go", imp("cfseed"), "unknown package ."},
		{"sibling", "internal/state/store/x.go", imp("store", "./internal/state/mvcc"), "its sibling internal/state/mvcc"},
		{"allowed sibling", "internal/state/mvcc/x.go", imp("mvcc", "./internal/state/store"), ""},
		{"sibling in node", "node/join/x.go", imp("join", "./node/peer"), "its sibling node/peer"},
		{"part imports its assembly", "node/peer/x.go", imp("peer", "./node"), "its sibling node"},
		{"judge and transfer", "verify/x.go", imp("verify", "./transfer"), "sibling transfer"},
		{"raft in state", "internal/state/x.go", imp("state", "go.etcd.io/raft/v3"), "knows nothing of leadership"},
		{"raftpb in a table", "internal/state/member/x.go", imp("member", "go.etcd.io/raft/v3/raftpb"), "knows nothing of leadership"},
		{"grpc in state", "internal/state/x.go", imp("state", "google.golang.org/grpc/status"), "does not depend on a caller"},
		{"rand in state", "internal/state/mvcc/x.go", imp("mvcc", "math/rand/v2"), "members would diverge"},
		{"clock in state", "internal/state/lease/x.go", "package lease\nimport t \"time\"\nvar start = t.Now()\n", "time.Now"},
		{"durations in state", "internal/state/lease/x.go", "package lease\nimport \"time\"\nvar d = time.Second\n", ""},
		{"clock elsewhere", "raftlog/x.go", "package raftlog\nimport \"time\"\nvar start = time.Now()\n", ""},
		{"dot import of the clock", "internal/state/x.go", "package state\nimport . \"time\"\nvar start = Now()\n", "by dot"},
		{"pebble in transfer", "transfer/x.go", imp("transfer", "github.com/cockroachdb/pebble/v2/vfs"), "files belong to snapshot"},
		{"raft in transfer", "transfer/x.go", imp("transfer", "go.etcd.io/raft/v3"), "does not know why"},
		{"log in transfer", "transfer/x.go", imp("transfer", "./raftlog"), "does not know why"},
		{"snapshot in verify", "verify/x.go", imp("verify", "./snapshot/manifest"), "does not share code"},
		{"grpc in snapshot", "snapshot/x.go", imp("snapshot", "google.golang.org/grpc"), "deals in files"},
		{"state in log", "raftlog/x.go", imp("raftlog", "./internal/state/envelope"), "the log holds bytes"},
		{"simulator in product", "node/x.go", imp("node", "./node/sim"), "test equipment"},
		{"flags outside cmd", "node/x.go", imp("node", "github.com/urfave/cli/v2"), "flags are parsed in one place"},
		{"testing in product", "raftlog/x.go", imp("raftlog", "testing"), "test code"},
		{"empty name", "node/join/x.go", imp("util"), "must say what the package is for"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := violations(fake(map[string]string{tc.path: tc.text}))
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(got, "\n")
			if (tc.want == "") != (len(got) == 0) || !strings.Contains(all, tc.want) {
				t.Errorf("got %q, want %q", all, tc.want)
			}
		})
	}
	for _, pkg := range []string{"internal/state", "raftlog", "snapshot", "transfer", "verify", "proto/chainfire/v1"} {
		got, err := violations(fake(map[string]string{pkg + "/x.go": imp("x", "./node/join")}))
		if err != nil || !strings.Contains(strings.Join(got, "\n"), "nothing below node knows it") {
			t.Errorf("%s imports node/join: got %q, %v", pkg, got, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"node", "node", true},
		{"node", "node/join", false},
		{"node/...", "node/join", true},
		{"node/...", "node", false},
		{"node{,/...}", "node", true},
		{"node{,/...}", "nodes", false},
		{"a/{b,c}", "a/c", true},
		{"{a{,/x},b}", "a/x", true},
		{"{a{,/x},b}", "a", true},
		{"{a{,/x},b}", "b/x", false},
		{"...", "anything/at/all", true},
		{"", "node", false},
	}
	for _, tc := range tests {
		if got := matches(tc.pattern, tc.name); got != tc.want {
			t.Errorf("matches(%q, %q) = %v", tc.pattern, tc.name, got)
		}
	}
}
