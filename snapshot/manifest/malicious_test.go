package manifest

import (
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// attack is an encoded manifest that must be refused although its checksum is
// right.
type attack struct {
	name    string
	encoded []byte
	want    string // part of the error
}

// resum puts the right checksum on b.
func resum(b []byte) []byte {
	if len(b) < sumSize {
		return b
	}
	b = slices.Clone(b[:len(b)-sumSize])
	return binary.LittleEndian.AppendUint64(b, xxh3.Hash(b))
}

// patched encodes the sample with bytes replaced at an offset.
func patched(at int, with ...byte) []byte {
	b := sample().encode()
	copy(b[at:], with)
	return resum(b)
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// badNames are names for a table that must not be taken for one.
func badNames() map[string]string {
	return map[string]string{
		"name: parent":              "../000009.sst",
		"name: grandparent":         "../../etc/passwd",
		"name: absolute":            "/000009.sst",
		"name: in a folder":         "a/000009.sst",
		"name: backslash":           `..\000009.sst`,
		"name: drive":               `C:\000009.sst`,
		"name: NUL inside":          "000009.sst\x00",
		"name: NUL before suffix":   "000009\x00.sst",
		"name: empty":               "",
		"name: dot":                 ".",
		"name: dot dot":             "..",
		"name: upper case suffix":   "000009.SST",
		"name: blob upper case":     "000009.Blob",
		"name: five digits":         "00009.sst",
		"name: seven with zero":     "0000009.sst",
		"name: no digits":           ".sst",
		"name: hex digits":          "00000a.sst",
		"name: negative":            "-00009.sst",
		"name: plus":                "+00009.sst",
		"name: space":               " 00009.sst",
		"name: space behind":        "000009.sst ",
		"name: newline":             "000009.sst\n",
		"name: full-width digits":   "00000９.sst",
		"name: not UTF-8":           "00000\xff.sst",
		"name: number too long":     strings.Repeat("9", 20) + ".sst",
		"name: very long":           strings.Repeat("9", 250) + ".sst",
		"name: a WAL":               "000009.log",
		"name: a lock":              "LOCK",
		"name: CURRENT":             "CURRENT",
		"name: temporary":           "temporary.000009.dbtmp",
		"name: our identity":        "identity",
		"name: our raft":            "raft",
		"name: lower case manifest": "manifest-000009",
		"name: lower case options":  "options-000009",
		"name: manifest, 5 digits":  "MANIFEST-00009",
		"name: manifest in folder":  "MANIFEST-../000009",
		"name: marker of nothing":   "marker.",
		"name: unknown marker":      "marker.evil.000001.x",
		"name: remote catalog":      "marker.remote-obj-catalog.000001.REMOTE-OBJ-CATALOG-000001",
		"name: marker to parent":    "marker.manifest.000001.../MANIFEST-000001",
		"name: marker, more parts":  "marker.manifest.000001.MANIFEST-000001.x",
		"name: marker iteration":    "marker.format-version.1.024",
		"name: marker not a number": "marker.format-version.000001.abc",
		"name: marker zeros":        "marker.format-version.000001.0024",
		"name: marker overflow":     "marker.format-version.000001.99999999999999999999",
	}
}

// structural attacks change the sample before it is encoded.
func structural() map[string]struct {
	want   string
	change func(m *Manifest)
} {
	const cs = 1 << 20
	type s = struct {
		want   string
		change func(m *Manifest)
	}
	return map[string]s{
		"version 0":             {"property 1", func(m *Manifest) { m.Version = 0 }},
		"chunk size 0":          {"property 2", func(m *Manifest) { m.ChunkSize = 0 }},
		"chunk size 1":          {"property 2", func(m *Manifest) { m.ChunkSize = 1 }},
		"chunk size odd":        {"property 2", func(m *Manifest) { m.ChunkSize = 1<<20 + 1 }},
		"chunk size 8 MiB":      {"property 2", func(m *Manifest) { m.ChunkSize = 8 << 20 }},
		"chunk size 2^31":       {"property 2", func(m *Manifest) { m.ChunkSize = 1 << 31 }},
		"no cluster":            {"property 3", func(m *Manifest) { m.Cluster.ID = 0 }},
		"no genesis":            {"property 3", func(m *Manifest) { m.Cluster.Genesis = ident.Nonce{} }},
		"term 0":                {"property 4", func(m *Manifest) { m.Position.Term = 0 }},
		"index 0":               {"property 4", func(m *Manifest) { m.Position.Index = 0 }},
		"no voters":             {"property 5", func(m *Manifest) { m.ConfState.Voters = nil }},
		"voter 0":               {"property 5", func(m *Manifest) { m.ConfState.Voters[0] = 0 }},
		"voters descend":        {"property 5", func(m *Manifest) { m.ConfState.Voters = []uint64{2, 1} }},
		"voter twice":           {"property 5", func(m *Manifest) { m.ConfState.Voters = []uint64{2, 2} }},
		"learner twice":         {"property 5", func(m *Manifest) { m.ConfState.Learners = []uint64{7, 7} }},
		"voter is learner":      {"property 5", func(m *Manifest) { m.ConfState.Learners = []uint64{9} }},
		"first voter a learner": {"property 5", func(m *Manifest) { m.ConfState.Learners = []uint64{1, 5} }},
		"revision negative":     {"property 6", func(m *Manifest) { m.Revision = -1 }},
		"format 0":              {"property 6", func(m *Manifest) { m.FormatMajorVersion = 0 }},
		"schema 0":              {"property 6", func(m *Manifest) { m.SchemaVersion = 0 }},
		"a name twice":          {"property 7", func(m *Manifest) { m.Files[1] = m.Files[0] }},
		"names not sorted":      {"property 7", func(m *Manifest) { m.Files[0], m.Files[1] = m.Files[1], m.Files[0] }},
		"kind of another":       {"property 8", func(m *Manifest) { m.Files[0].Kind = KindBlob }},
		"kind 0":                {"property 8", func(m *Manifest) { m.Files[0].Kind = 0 }},
		"kind 255":              {"property 8", func(m *Manifest) { m.Files[0].Kind = 255 }},
		"no files":              {"property 9", func(m *Manifest) { m.Files = nil }},
		"no MANIFEST":           {"property 9", func(m *Manifest) { m.Files = slices.Delete(m.Files, 2, 3) }},
		"no OPTIONS":            {"property 9", func(m *Manifest) { m.Files = slices.Delete(m.Files, 3, 4) }},
		"no format marker":      {"property 9", func(m *Manifest) { m.Files = slices.Delete(m.Files, 4, 5) }},
		"no manifest marker":    {"property 9", func(m *Manifest) { m.Files = slices.Delete(m.Files, 5, 6) }},
		"two MANIFESTs": {"property 9", func(m *Manifest) {
			m.Files = slices.Insert(m.Files, 3, file(KindVersions, "MANIFEST-000009", 1, cs))
		}},
		"two format markers": {"property 9", func(m *Manifest) {
			m.Files = slices.Insert(m.Files, 5, file(KindMarker, "marker.format-version.000002.024", 0, cs))
		}},
		"marker names another": {"property 9", func(m *Manifest) {
			m.Files[5] = file(KindMarker, "marker.manifest.000001.MANIFEST-000003", 0, cs)
		}},
		"marker of another format": {"property 9", func(m *Manifest) {
			m.Files[4] = file(KindMarker, "marker.format-version.000001.023", 0, cs)
		}},
		"format beside its marker": {"property 9", func(m *Manifest) { m.FormatMajorVersion = 25 }},
		"marker with bytes": {"property 10", func(m *Manifest) {
			m.Files[4] = file(KindMarker, m.Files[4].Name, 5, cs)
		}},
		"empty table": {"property 10", func(m *Manifest) { m.Files[1] = file(KindTable, "000007.sst", 0, cs) }},
		"foreign digest": {"property 13", func(m *Manifest) {
			m.Files[0].Digest = m.Files[1].Digest
		}},
		"one sum changed": {"property 13", func(m *Manifest) { m.Files[0].Chunks[2]++ }},
	}
}

// malicious lists all attacks: the above, and changes to the bytes.
func malicious(t testing.TB) []attack {
	t.Helper()
	var out []attack
	for name, bad := range badNames() {
		m := sample()
		m.Files[0].Name = bad
		want := "property 8"
		if len(bad) > 255 {
			want = ""
		}
		out = append(out, attack{name, m.encode(), want})
	}
	for name, c := range structural() {
		m := sample()
		c.change(m)
		out = append(out, attack{name, m.encode(), c.want})
	}
	const sizeOfFirst = headerSize + 8*4 + 2 + len("000005.sst")
	many := sample()
	for len(many.ConfState.Voters) <= MaxMembers {
		many.ConfState.Voters = append(many.ConfState.Voters, many.ConfState.Voters[len(many.ConfState.Voters)-1]+1)
	}
	out = append(out,
		attack{"empty", nil, "too few"},
		attack{"header only", resum(make([]byte, headerSize+sumSize)), "not a manifest"},
		attack{"other magic", patched(0, 'c'), "not a manifest"},
		attack{"newer version", patched(8, 2), "upgrade"},
		attack{"reserved set", patched(10, 1), "reserved"},
		attack{"2^32-1 voters", patched(92, le32(1<<32-1)...), "too many"},
		attack{"2^32-1 learners", patched(96, le32(1<<32-1)...), "too many"},
		attack{"2^32-1 files", patched(100, le32(1<<32-1)...), "too many"},
		attack{"4096 voters promised", patched(92, le32(4096)...), "early"},
		attack{"4097 voters", many.encode(), "too many"},
		attack{"100000 files promised", patched(100, le32(100_000)...), "do not fit"},
		attack{"100001 files", patched(100, le32(100_001)...), "too many"},
		attack{"a file less", patched(100, le32(5)...), "too many"},
		attack{"a file more", patched(100, le32(7)...), ""},
		attack{"size 2^64-1", patched(sizeOfFirst, le64(1<<64-1)...), "early"},
		attack{"size 2^63", patched(sizeOfFirst, le64(1<<63)...), "early"},
		attack{"size 2^46", patched(sizeOfFirst, le64(1<<46)...), "early"},
		attack{"size of one chunk less", patched(sizeOfFirst, le64(2<<20)...), ""},
		attack{"size one more in the last chunk", patched(sizeOfFirst, le64(3<<20+2)...), "property 13"},
		attack{"name length 255", patched(headerSize+8*4+1, 255), ""},
		attack{"bytes behind", resum(append(sample().encode(), make([]byte, 8)...)), "too many"},
		attack{"more than 64 MiB", make([]byte, MaxBytes+1), "at most"},
	)
	return out
}

func TestMaliciousManifests(t *testing.T) {
	cases := malicious(t)
	if len(cases) < 60 {
		t.Fatalf("only %d cases", len(cases))
	}
	if _, err := Unmarshal(sample().encode()); err != nil {
		t.Fatalf("the unchanged sample is refused: %v", err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Unmarshal(c.encoded)
			runtime.ReadMemStats(&after)
			if code := fault.CodeOf(err); code != fault.Corrupt && code != fault.Refused {
				t.Fatalf("got %v", err)
			}
			if text := err.Error() + fault.HintOf(err); !strings.Contains(text, c.want) {
				t.Errorf("refused for %q, want %q", err, c.want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
				t.Errorf("allocated %d bytes for %d", grown, len(c.encoded))
			}
		})
	}
	t.Logf("%d malicious manifests refused", len(cases))
}

// These can not be encoded, or only at great length: Validate alone sees them.
func TestValidateRefusesWhatIsNeverEncoded(t *testing.T) {
	for name, tc := range map[string]struct {
		want   string
		change func(m *Manifest)
	}{
		"4097 learners": {"property 5", func(m *Manifest) { m.ConfState.Learners = make([]uint64, 4097) }},
		"100001 files":  {"property 7", func(m *Manifest) { m.Files = make([]File, MaxFiles+1) }},
		"sizes overflow": {"property 11", func(m *Manifest) {
			m.Files[0].Size, m.Files[1].Size = MaxTotal, 1<<64-1
			m.Files[0].Chunks = make([]uint64, MaxTotal>>20)
		}},
		"a size beyond the limit": {"property 11", func(m *Manifest) { m.Files[0].Size = MaxTotal + 1 }},
		"a chunk too few":         {"property 12", func(m *Manifest) { m.Files[0].Chunks = m.Files[0].Chunks[:3] }},
		"a chunk too many":        {"property 12", func(m *Manifest) { m.Files[1].Chunks = make([]uint64, 2) }},
		"encoding too long": {"property 14", func(m *Manifest) {
			m.ChunkSize = 1 << 12
			for i := range m.Files {
				m.Files[i] = file(m.Files[i].Kind, m.Files[i].Name, m.Files[i].Size, m.ChunkSize)
			}
			m.Files[0].Size = 9 << 32
			m.Files[0].Chunks = make([]uint64, 9<<20)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := sample()
			tc.change(m)
			if _, err := m.Marshal(); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestKindOf(t *testing.T) {
	for name, want := range map[string]Kind{
		"000001.sst": KindTable, "1234567.sst": KindTable, "000001.blob": KindBlob,
		"MANIFEST-000001": KindVersions, "OPTIONS-999999": KindOptions,
		"marker.manifest.000001.MANIFEST-000001": KindMarker,
		"marker.format-version.000012.024":       KindMarker,
	} {
		if got, ok := KindOf(name); !ok || got != want {
			t.Errorf("%s: %s, %v", name, got, ok)
		}
	}
	for _, bad := range badNames() {
		if kind, ok := KindOf(bad); ok && kind == KindTable {
			t.Errorf("%q is taken for a table", bad)
		}
	}
}
