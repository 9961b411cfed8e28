//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// ctlCommand is a command of etcdctl, or the flags that all have (no path), as
// its help tells of it.
type ctlCommand struct {
	path  []string
	group bool              // it has commands below it and does nothing itself
	flags map[string]string // name as given, -w or --write-out, to --write-out
}

func (c ctlCommand) String() string { return strings.Join(c.path, " ") }

var (
	helpCommand = regexp.MustCompile(`^  ([a-z][a-z-]*) +\S`)
	helpFlag    = regexp.MustCompile(`^ +(?:(-[a-zA-Z]), )?(--[a-z][a-z-]*)`)
)

// parseHelp reads a help page: the names of the commands below, and the flags.
func parseHelp(text string) (below []string, flags map[string]string) {
	flags = map[string]string{}
	heading := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line != "" && line[0] != ' ' {
			heading = line
			continue
		}
		switch {
		case heading == "Available Commands:" || strings.HasSuffix(heading, " commands"):
			if m := helpCommand.FindStringSubmatch(line); m != nil {
				below = append(below, m[1])
			}
		case strings.HasSuffix(heading, "Flags:") || strings.HasPrefix(heading, "The following options"):
			if m := helpFlag.FindStringSubmatch(line); m != nil && m[2] != "--help" {
				flags[m[2]] = m[2]
				if m[1] != "" {
					flags[m[1]] = m[2]
				}
			}
		}
	}
	return below, flags
}

// commands asks etcdctl for all its commands, and theirs.
func (e etcdctl) commands() []ctlCommand {
	e.t.Helper()
	_, flags := parseHelp(e.must("options"))
	return append([]ctlCommand{{group: true, flags: flags}}, e.commandsBelow()...)
}

func (e etcdctl) commandsBelow(path ...string) (list []ctlCommand) {
	e.t.Helper()
	below, flags := parseHelp(e.must(append(slices.Clone(path), "--help")...))
	if len(path) > 0 {
		list = append(list, ctlCommand{path: path, group: len(below) > 0, flags: flags})
	}
	for _, name := range below {
		list = append(list, e.commandsBelow(append(slices.Clone(path), name)...)...)
	}
	return list
}

// ctlRuns is the arguments that etcdctl was run with, the command before its
// flags: those that did what they were meant to, and those that failed.
type ctlRuns struct {
	mu       sync.Mutex
	ok, fail [][]string
}

// note counts a run; a tool that counts none has no ctlRuns.
func (r *ctlRuns) note(ok bool, args []string) {
	if r == nil || slices.Contains(args, "--help") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		r.ok = append(r.ok, args)
	} else {
		r.fail = append(r.fail, args)
	}
}

// untried tells what of the commands and their flags has not been run with
// success, but what is refused, which must have failed and nothing else, and
// what is left out, each with its reason.
func (r *ctlRuns) untried(commands []ctlCommand, refused, leftOut map[string]string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok, told := tried(commands, r.ok)
	failed, unknown := tried(commands, r.fail)
	told = append(told, unknown...)
	all := map[string]bool{}
	for _, c := range commands {
		names := []string{}
		if !c.group {
			names = append(names, c.String())
		}
		for _, flag := range slices.Sorted(maps.Keys(c.flags)) {
			if c.flags[flag] == flag {
				names = append(names, strings.TrimSpace(c.String()+" "+flag))
			}
		}
		if c.group && len(c.path) > 0 {
			names = nil // the commands below list its flags
		}
		for _, name := range names {
			all[name] = true
			switch {
			case refused[name] != "" && !failed[name]:
				told = append(told, name+" is refused, and nobody tried")
			case refused[name] != "" && ok[name]:
				told = append(told, name+" is refused, and was not")
			case refused[name] == "" && leftOut[name] == "" && !ok[name]:
				told = append(told, name)
			case leftOut[name] != "" && ok[name]:
				told = append(told, name+" is left out, and was run")
			}
		}
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(refused)), slices.Sorted(maps.Keys(leftOut))) {
		if !all[name] {
			told = append(told, name+" is not of etcdctl")
		}
	}
	return told
}

// tried is the names of the commands and flags in the runs, and what none of the
// commands is.
func tried(commands []ctlCommand, runs [][]string) (names map[string]bool, unknown []string) {
	names = map[string]bool{}
	for _, args := range runs {
		var of ctlCommand
		for _, c := range commands {
			if len(c.path) > len(of.path) && len(c.path) <= len(args) && slices.Equal(args[:len(c.path)], c.path) {
				of = c
			}
		}
		if len(of.path) == 0 || of.group {
			unknown = append(unknown, fmt.Sprintf("%q is no command", args))
			continue
		}
		names[of.String()] = true
		for _, arg := range args[len(of.path):] {
			if arg == "--" {
				break
			}
			flag, _, _ := strings.Cut(arg, "=")
			for _, c := range []ctlCommand{of, commands[0]} {
				if long, known := c.flags[flag]; known {
					names[strings.TrimSpace(c.String()+" "+long)] = true
					break
				}
			}
		}
	}
	return names, unknown
}
