//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// ctlRefused is what we do not do, and say so.
var ctlRefused = map[string]string{
	"downgrade enable":   "formats say which program reads them",
	"downgrade validate": "formats say which program reads them",
	"downgrade cancel":   "none is ever in flight",
}

// ctlLeftOut is what no test runs.
var ctlLeftOut = map[string]string{
	"--endpoints":          "every run has it",
	"--discovery-srv":      "asks a name server for endpoints, and no member",
	"--discovery-srv-name": "asks a name server for endpoints, and no member",
	"--insecure-discovery": "asks a name server for endpoints, and no member",
}

// TestEtcdctlUntried: what nobody runs is found, be it a command, one below
// another, or a flag.
func TestEtcdctlUntried(t *testing.T) {
	t.Parallel()
	own := func(names ...string) map[string]string {
		flags := map[string]string{}
		for _, name := range names {
			flags[name] = names[len(names)-1]
		}
		return flags
	}
	commands := []ctlCommand{
		{group: true, flags: own("-w", "--write-out")},
		{path: []string{"get"}, flags: own("--rev")},
		{path: []string{"lease"}, group: true, flags: own("--of-all")},
		{path: []string{"lease", "list"}, flags: own("--of-all")},
		{path: []string{"downgrade"}},
	}
	whole := []string{"get k --rev 3 -w json", "lease list --of-all=true"}
	for _, tc := range []struct {
		name     string
		ok, fail []string
		want     []string
	}{
		{"all", whole, []string{"downgrade"}, nil},
		{"nothing", nil, nil, []string{"--write-out", "get", "get --rev", "lease list", "lease list --of-all", "downgrade is refused, and nobody tried"}},
		{"no flag", []string{"get k", "lease list --of-all -w=json"}, []string{"downgrade"}, []string{"get --rev"}},
		{"what is after -- is another's", []string{"get k -- --rev 3", whole[1]}, []string{"downgrade"}, []string{"--write-out", "get --rev"}},
		{"the flag of another command", []string{"get k", "lease list --of-all --rev -w json"}, []string{"downgrade"}, []string{"get --rev"}},
		{"a command that only fails", whole[:1], []string{"downgrade", whole[1]}, []string{"lease list", "lease list --of-all"}},
		{"what is refused is done", append(whole, "downgrade"), []string{"downgrade"}, []string{"downgrade is refused, and was not"}},
		{"nothing of etcdctl", append(whole, "upgrade now"), []string{"downgrade", "lease"},
			[]string{`["upgrade" "now"] is no command`, `["lease"] is no command`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runs := &ctlRuns{}
			for _, args := range tc.ok {
				runs.note(true, strings.Fields(args))
			}
			for _, args := range tc.fail {
				runs.note(false, strings.Fields(args))
			}
			if got := runs.untried(commands, map[string]string{"downgrade": "is not done"}, nil); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
	runs := &ctlRuns{ok: [][]string{{"get", "--rev", "-w"}, {"lease", "list", "--of-all"}, {"downgrade"}}}
	want := []string{"get --rev is left out, and was run", "--of-none is not of etcdctl"}
	if got := runs.untried(commands, nil, map[string]string{"get --rev": "is run all the same", "--of-none": "is gone"}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestEtcdctlHelp: a page of help is read as it is meant.
func TestEtcdctlHelp(t *testing.T) {
	t.Parallel()
	const page = "Makes things.\n\nUsage:\n  etcdctl make [command]\n\nExamples:\n  # an example\n  etcdctl make --this\n\n" +
		"Key-value commands\n  get         Gets\n  move-leader Moves\n\nAvailable Commands:\n  save        Saves\n\n" +
		"Flags:\n  -h, --help         help for make\n      --dest string  where to\n  -i, --interactive  asks\n\nGlobal Flags:\n      --cluster   all\n\n" +
		"Use \"etcdctl make [command] --help\" for more.\n"
	below, flags := parseHelp(page)
	if want := []string{"get", "move-leader", "save"}; !slices.Equal(below, want) {
		t.Errorf("%q, want %q", below, want)
	}
	for given, long := range map[string]string{"--dest": "--dest", "-i": "--interactive", "--interactive": "--interactive", "--cluster": "--cluster"} {
		if flags[given] != long {
			t.Errorf("%s is %q, want %q", given, flags[given], long)
		}
	}
	if len(flags) != 4 {
		t.Errorf("%v", flags)
	}
}
