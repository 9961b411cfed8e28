package cfseed_test

import (
	"bufio"
	"fmt"
	"go/ast"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/chainfire/cfseed/internal/fault"
)

const (
	maxFunctionLines = 80
	maxFileLines     = 420
)

// longAllowed lists functions ("folder.Function" or "folder.Type.Method") and
// files that may be longer, with the reason.
var longAllowed = map[string]string{}

// topLevel are the folders of the repository, and nothing else.
var topLevel = []string{
	".ci", "cmd", "docs", "internal", "node", "proto", "raftlog", "snapshot", "testdata", "transfer", "verify",
}

// TestPackagesAreDocumented wants one attached package comment in each folder
// ("Package x ..."; a blank line would hide it from godoc).
func TestPackagesAreDocumented(t *testing.T) {
	type doc struct{ name, text string }
	docs := map[string]doc{}
	for _, tests := range []bool{false, true} {
		files, err := source(os.DirFS("."), tests)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			d, seen := docs[f.dir]
			if tests && seen && d.name != f.ast.Name.Name {
				continue // an external test package beside a package
			}
			if !f.generated && d.text == "" {
				d.text = f.ast.Doc.Text()
			}
			d.name = f.ast.Name.Name
			docs[f.dir] = d
		}
	}
	for dir, d := range docs {
		if strings.HasPrefix(dir, "proto/") {
			continue // generated; the .proto files open with theirs
		}
		want := "Package " + d.name + " "
		if d.name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(d.text, want) {
			t.Errorf("%s: the package comment must begin with %q (and touch the package clause)", dir, want)
		}
	}
}

// TestSizes keeps functions and files readable in one sitting.
func TestSizes(t *testing.T) {
	files, err := source(os.DirFS("."), false)
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	tooLong := func(name string) bool { used[name] = true; return longAllowed[name] == "" }
	for _, f := range files {
		if f.generated {
			continue
		}
		if n := f.fset.Position(f.ast.FileEnd).Line; n > maxFileLines && tooLong(f.path) {
			t.Errorf("%s: %d lines, at most %d", f.path, n, maxFileLines)
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if name := f.dir + "." + functionName(fn); n > maxFunctionLines && tooLong(name) {
				t.Errorf("%s: %s: %d lines, at most %d", f.path, name, n, maxFunctionLines)
			}
		}
	}
	for name := range longAllowed {
		if !used[name] {
			t.Errorf("longAllowed: %s is not too long (any more)", name)
		}
	}
}

func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if gen, ok := typ.(*ast.IndexExpr); ok {
		typ = gen.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

// forbidden is text that may not stand in the repository. The expressions are
// written so that they do not match themselves.
var forbidden = []struct {
	text   *regexp.Regexp
	files  func(name string) bool
	reason string
}{
	{regexp.MustCompile(`\bTO[D]O\b`), anyFile, "finish it or leave it out"},
	{regexp.MustCompile(`\bFIX[M]E\b`), anyFile, "finish it or leave it out"},
	{regexp.MustCompile(`(?i)not (yet )?implemente[d]`), productFile, "finish it or leave it out"},
	{regexp.MustCompile(`\.\./share[d]`), anyFile, "the repository stands alone"},
	{regexp.MustCompile(`(^|[\s"'=(])/(work|roo[t]|home|Users)/`), anyFile, "a path of one machine"},
	{regexp.MustCompile(`\btime\.Slee[p]\(`), sleepless, "a test that sleeps is slow or flaky; wait for the event"},
	{regexp.MustCompile(`\bos\.Exi[t]\(`), exitless, "only main ends the process"},
}

func anyFile(string) bool { return true }

func productFile(name string) bool {
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".pb.go")
}

func sleepless(name string) bool {
	return strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "node/e2e/")
}

func exitless(name string) bool {
	return productFile(name) && !strings.HasSuffix(name, "_test.go") && name != "cmd/cfseed/main.go"
}

// textFiles calls fn for every text file of tree that could be committed.
func textFiles(tree fs.FS, fn func(name, text string)) error {
	return fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" || d.Name() == ".bin" { // .git is a file in a linked worktree
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err != nil || !info.Mode().IsRegular() || info.Size() > 4<<20 {
			return err
		}
		text, err := fs.ReadFile(tree, p)
		if err == nil && utf8.Valid(text) {
			fn(p, string(text))
		}
		return err
	})
}

// forbiddenWords gives one line per forbidden text found in tree.
func forbiddenWords(tree fs.FS) ([]string, error) {
	var out []string
	err := textFiles(tree, func(name, text string) {
		for _, rule := range forbidden {
			if !rule.files(name) {
				continue
			}
			for i, line := range strings.Split(text, "\n") {
				if found := rule.text.FindString(line); found != "" {
					out = append(out, fmt.Sprintf("%s:%d: %q: %s", name, i+1, found, rule.reason))
				}
			}
		}
	})
	return out, err
}

func TestForbiddenWords(t *testing.T) {
	found, err := forbiddenWords(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

func TestForbiddenWordsAreReported(t *testing.T) {
	tests := []struct {
		name, text string
		want       bool
	}{
		{"a.go", "// TO" + "DO: more", true},
		{"a.go", "ctx := context.TO" + "DO()", true},
		{"docs/a.md", "FIX" + "ME", true},
		{"a.go", `errors.New("not ` + `implemented")`, true},
		{"Makefile", "cp ../sha" + "red/x .", true},
		{"a.go", `dir := "/ho` + `me/me/x"`, true},
		{"a.go", `dir := "/var/lib/x"`, false},
		{".git", "gitdir: /ho" + "me/me/x/.git/worktrees/y", false},
		{"a_test.go", "time.Sl" + "eep(1)", true},
		{"node/e2e/a_test.go", "time.Sl" + "eep(1)", false},
		{"a.go", "os.Ex" + "it(1)", true},
		{"cmd/cfseed/main.go", "os.Ex" + "it(1)", false},
	}
	for _, tc := range tests {
		found, err := forbiddenWords(fake(map[string]string{tc.name: tc.text}))
		if err != nil || (len(found) > 0) != tc.want {
			t.Errorf("%s %q: found %q, %v", tc.name, tc.text, found, err)
		}
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// A node that was tried here leaves its data directory, NAME.cfseed.
		hidden := e.Name() == ".git" || e.Name() == ".bin" || e.Name() == ".github" || strings.HasSuffix(e.Name(), ".cfseed")
		if e.IsDir() && !hidden && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("folder %s is not one of %v", e.Name(), topLevel)
		}
	}
}

// codeBlocks gives the lines of a Markdown text's ```sh blocks that are
// commands, continuation lines joined.
func codeBlocks(markdown string) []string {
	var (
		commands []string
		inside   bool
		pending  string
	)
	for line := range strings.Lines(markdown) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside && line != "" && !strings.HasPrefix(line, "#"):
			if rest, more := strings.CutSuffix(line, `\`); more {
				pending += rest
				continue
			}
			commands, pending = append(commands, pending+line), ""
		}
	}
	return commands
}

// TestReadmeCommandsAreRun: every command the README shows is run by
// continuous integration: by a step that names it in a "# readme:" line of
// .ci/run, or by .ci/readme, which runs the README's session word for word.
func TestReadmeCommandsAreRun(t *testing.T) {
	readme, run := readText(t, "README.md"), readText(t, ".ci/run")
	var byStep []string
	for line := range strings.Lines(run) {
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "# readme: "); ok {
			byStep = append(byStep, c)
		}
	}
	commands := codeBlocks(readme)
	for _, c := range byStep {
		if !slices.Contains(commands, c) {
			t.Errorf(".ci/run names %q, which the README does not show", c)
		}
	}
	for _, want := range []string{"go run ./cmd/cfseed demo", "go test ./..."} {
		if !slices.Contains(byStep, want) {
			t.Errorf("%q must be a step of .ci/run and stand in the README", want)
		}
	}
	_, session, found := strings.Cut(readme, "<!-- session -->")
	session, _, closed := strings.Cut(session, "<!-- end of session -->")
	if !found || !closed {
		t.Fatal("the README has no marked session")
	}
	inSession := codeBlocks(session)
	for _, c := range commands {
		if !slices.Contains(byStep, c) && !slices.Contains(inSession, c) {
			t.Errorf("README command is run by nothing: %s", c)
		}
	}
}

func TestCodeBlocks(t *testing.T) {
	got := codeBlocks("text\n```sh\n# comment\na b\nc \\\n  d\n```\n```\nnot me\n```\n")
	if want := []string{"a b", "c d"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestErrorCodesAreDocumented compares the table in docs/command-line.md with
// the code.
func TestErrorCodesAreDocumented(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d+) \\|")
	var got, want []string
	for _, m := range row.FindAllStringSubmatch(readText(t, "docs/command-line.md"), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	for _, c := range fault.Codes() {
		want = append(want, fmt.Sprintf("%s %d", c, c.Exit()))
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/command-line.md lists\n%q\nthe code has\n%q", got, want)
	}
}

// TestMetricsAreDocumented compares the table in docs/operations.md with the names
// in the code.
func TestMetricsAreDocumented(t *testing.T) {
	got, want := map[string]bool{}, map[string]bool{}
	_, table, _ := strings.Cut(readText(t, "docs/operations.md"), "## Metrics")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile("`(cfseed_[a-z_]+)").FindAllStringSubmatch(table, -1) {
		got[m[1]] = true
	}
	for _, file := range []string{"node/metrics.go", "node/peer/metrics.go"} {
		for _, m := range regexp.MustCompile(`"(cfseed_[a-z_]+)"`).FindAllStringSubmatch(readText(t, file), -1) {
			want[m[1]] = true
		}
	}
	if len(want) == 0 || !maps.Equal(got, want) {
		t.Errorf("docs/operations.md lists\n%q\nthe code has\n%q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// TestDependenciesHaveReasons wants a row in ARCHITECTURE.md for each direct
// dependency and each tool, and no row for anything else.
func TestDependenciesHaveReasons(t *testing.T) {
	var want []string
	direct := regexp.MustCompile(`^\t(\S+) v\S+$`)
	tool := regexp.MustCompile(`^\t(\S+/\S+)$`)
	scanner := bufio.NewScanner(strings.NewReader(readText(t, "go.mod")))
	for scanner.Scan() {
		for _, re := range []*regexp.Regexp{direct, tool} {
			if m := re.FindStringSubmatch(scanner.Text()); m != nil {
				want = append(want, m[1])
			}
		}
	}
	var got []string
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9.]+\\.[a-z]+/[^` ]+)` \\| \\S")
	for _, m := range row.FindAllStringSubmatch(readText(t, "ARCHITECTURE.md"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("ARCHITECTURE.md explains\n%s\ngo.mod requires\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEtcdctlIsOfTheServedRelease: the etcdctl that the end-to-end tests run is
// of the release of etcd whose API is served, and a node says that it is of that.
func TestEtcdctlIsOfTheServedRelease(t *testing.T) {
	version := func(file, module string) string {
		t.Helper()
		m := regexp.MustCompile(regexp.QuoteMeta(module) + ` (v\S+)`).FindStringSubmatch(readText(t, file))
		if m == nil {
			t.Fatalf("%s does not require %s", file, module)
		}
		return m[1]
	}
	api, ctl := version("go.mod", "go.etcd.io/etcd/api/v3"), version("testdata/etcdctl/go.mod", "go.etcd.io/etcd/etcdctl/v3")
	if api != ctl {
		t.Errorf("etcdctl is %s, the API %s", ctl, api)
	}
	if !strings.Contains(readText(t, "node/etcdbackend.go"), fmt.Sprintf("EtcdVersion = %q", strings.TrimPrefix(api, "v"))) {
		t.Errorf("the API is %s, a node says another version", api)
	}
}

// mapErrors holds the code map and the map of an ARCHITECTURE.md against the
// folders of tree that hold Go code: both list the same places on the same
// levels, and a place either exists or is marked as planned, in both.
func mapErrors(tree fs.FS, text string, levels map[string]int, planned []string) ([]string, error) {
	files, err := source(tree, false)
	if err != nil {
		return nil, err
	}
	tests, err := source(tree, true)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, f := range append(files, tests...) {
		there[f.dir] = true
	}
	var out []string
	drawn := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| (\\d) \\| `([^`]+)` \\| (planned: )?\\S")
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		dir, marked := m[2], m[3] != ""
		drawn[dir] = true
		if level, known := levels[dir]; !known || m[1] != fmt.Sprint(level) {
			out = append(out, fmt.Sprintf("ARCHITECTURE.md has %s on level %s, the code map on %d (%t)", dir, m[1], level, known))
		}
		if marked != slices.Contains(planned, dir) {
			out = append(out, fmt.Sprintf("%s: planned for only one of ARCHITECTURE.md and the code map", dir))
		}
	}
	for dir := range levels {
		if !drawn[dir] {
			out = append(out, fmt.Sprintf("ARCHITECTURE.md does not draw %s", dir))
		}
		if there[dir] == slices.Contains(planned, dir) {
			out = append(out, fmt.Sprintf("%s: holds code %t, planned %t", dir, there[dir], slices.Contains(planned, dir)))
		}
	}
	for _, dir := range planned {
		if _, known := levels[dir]; !known {
			out = append(out, fmt.Sprintf("%s is planned and has no level", dir))
		}
	}
	slices.Sort(out)
	return out, nil
}

func TestArchitectureShowsTheCodeMap(t *testing.T) {
	found, err := mapErrors(os.DirFS("."), readText(t, "ARCHITECTURE.md"), codeMap, planned)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

func TestMapErrorsAreReported(t *testing.T) {
	const drawn = "| 1 | `a` | what it is |\n| 0 | `b` | planned: what it will be |\n"
	for _, tc := range []struct {
		name    string
		folders []string
		text    string
		planned []string
		want    string // the only error; empty = none
	}{
		{"as drawn", []string{"a"}, drawn, []string{"b"}, ""},
		{"not there and not marked", []string{"a"}, strings.Replace(drawn, "planned: ", "", 1), nil, "b: holds code false"},
		{"marked and there", []string{"a", "b"}, drawn, []string{"b"}, "b: holds code true"},
		{"marked here only", []string{"a"}, strings.Replace(drawn, "planned: ", "", 1), []string{"b"}, "planned for only one"},
		{"another level", []string{"a"}, strings.Replace(drawn, "| 1 |", "| 2 |", 1), []string{"b"}, "on level 2"},
		{"not drawn", []string{"a"}, drawn[strings.Index(drawn, "\n")+1:], []string{"b"}, "does not draw a"},
		{"unknown", []string{"a"}, drawn + "| 1 | `c` | more |\n", []string{"b"}, "has c on level 1"},
		{"planned without a level", []string{"a"}, drawn, []string{"b", "c"}, "c is planned and has no level"},
	} {
		files := map[string]string{}
		for _, dir := range tc.folders {
			files[dir+"/x.go"] = "package x\n"
		}
		found, err := mapErrors(fake(files), tc.text, map[string]int{"a": 1, "b": 0}, tc.planned)
		if all := strings.Join(found, "; "); err != nil || (tc.want == "") != (all == "") || !strings.Contains(all, tc.want) || len(found) > 1 {
			t.Errorf("%s: got %q, %v, want %q", tc.name, all, err, tc.want)
		}
	}
}

// TestArchitectureNamesRealTests: a safety rule is shown by tests that exist,
// and so is a difference from etcd.
func TestArchitectureNamesRealTests(t *testing.T) {
	files, err := source(os.DirFS("."), true)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range files {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				there[f.dir+"."+fn.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile("`([a-z0-9/]+\\.Test[A-Za-z0-9_]+)`")
	for _, file := range []string{"ARCHITECTURE.md", "docs/etcd-compatibility.md"} {
		for _, m := range named.FindAllStringSubmatch(readText(t, file), -1) {
			if !there[m[1]] {
				t.Errorf("%s names %s, which is not there", file, m[1])
			}
		}
	}
	text := readText(t, "ARCHITECTURE.md")
	_, differences, _ := strings.Cut(text, "\n## Differences from etcd\n")
	differences, _, _ = strings.Cut(differences, "\n## ")
	for _, d := range strings.Split(differences, "\n- ")[1:] {
		if !named.MatchString(d) {
			t.Errorf("no test shows this difference from etcd: %s", d)
		}
	}
	for n := 1; n <= 11; n++ {
		if !regexp.MustCompile(fmt.Sprintf("(?m)^\\| S%d \\|.*\\.Test.*$", n)).MatchString(text) {
			t.Errorf("ARCHITECTURE.md names no test for rule S%d", n)
		}
	}
}

// TestDocumentLinks: files that the documents link to are there.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	err := textFiles(os.DirFS("."), func(name, text string) {
		if !strings.HasSuffix(name, ".md") {
			return
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(path.Join(path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGoldenLists: the lists that continuous integration keeps are sorted,
// without repetition, and each line has a reason.
func TestGoldenLists(t *testing.T) {
	var names []string
	for line := range strings.Lines(readText(t, ".ci/skips.txt")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, "  ")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Errorf(".ci/skips.txt: %q: want \"package.Test  reason\"", line)
		}
		names = append(names, name)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf(".ci/skips.txt is not sorted or repeats itself: %q", names)
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
