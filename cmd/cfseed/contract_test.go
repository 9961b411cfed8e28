package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// contract is the command line that scripts may rely on, beside the flags that
// all commands of a kind share.
var contract = map[string]string{
	"node": "name data-dir listen-client-urls advertise-client-urls listen-peer-urls initial-advertise-peer-urls initial-cluster " +
		"initial-cluster-state initial-cluster-token snapshot-count heartbeat-interval election-timeout quota-backend-bytes max-learners " +
		"listen-metrics-urls join learner await-seed join-token cluster-id config lease-ttl lease-bytes",
	"pull":             "from data-dir name parallel rate-limit compression delta lease-ttl lease-bytes",
	"push":             "from to",
	"verify":           "data-dir against quick cluster",
	"member add":       "peer-urls learner no-seed",
	"member list":      "endpoints",
	"member promote":   "endpoints",
	"member remove":    "endpoints",
	"member update":    "endpoints",
	"member token":     "output",
	"snapshot save":    "",
	"snapshot inspect": "",
	"snapshot restore": "data-dir name initial-cluster initial-cluster-token initial-advertise-peer-urls bump-revision mark-compacted",
	"status":           "watch",
	"get":              "endpoints prefix from-key rev limit sort-by order keys-only count-only hex",
	"put":              "endpoints lease prev-kv hex",
	"del":              "endpoints prefix from-key prev-kv hex",
	"watch":            "endpoints prefix from-key rev prev-kv hex",
	"completion":       "",
	"demo":             "load deadline",
	"bench join":       "",
}

// notServed gives the section of a document on what is not served yet.
func notServed(text string) string {
	_, section, _ := strings.Cut(text, "\n## Not served yet\n")
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// TestContractIsServedOrListed: what the contract promises is there, or stands in
// docs/command-line.md among what is not served yet; never both.
func TestContractIsServedOrListed(t *testing.T) {
	text, err := os.ReadFile("../../docs/command-line.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	name := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(notServed(string(text))) {
		if row, is := strings.CutPrefix(line, "| `"); is {
			cell, _, _ := strings.Cut("`"+row, " |")
			for _, m := range name.FindAllStringSubmatch(cell, -1) {
				listed = append(listed, m[1])
			}
		}
	}
	served := map[string]bool{}
	for _, l := range allCommands() {
		words := strings.Join(l.words, " ")
		served[words] = true
		for _, f := range l.cmd.Flags {
			for _, n := range f.Names() {
				served[words+" --"+n] = true
			}
		}
	}
	var promised []string
	for words, flags := range contract {
		promised = append(promised, words)
		if slices.Contains(listed, words) {
			continue // and with it all of its flags
		}
		for flag := range strings.FieldsSeq(flags) {
			promised = append(promised, words+" --"+flag)
		}
	}
	for _, p := range promised {
		if served[p] == slices.Contains(listed, p) {
			t.Errorf("%s: served %t, listed as not served yet %t", p, served[p], slices.Contains(listed, p))
		}
	}
	for _, l := range listed {
		if !slices.Contains(promised, l) {
			t.Errorf("%s is listed and nobody promises it", l)
		}
	}
}
