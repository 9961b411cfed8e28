package manifest

import (
	"strconv"
	"strings"
)

// Kind is what a file is to the storage engine.
type Kind uint8

// The kinds; the numbers are part of the format.
const (
	KindTable    Kind = 1 // NNNNNN.sst, never changed once written
	KindBlob     Kind = 2 // NNNNNN.blob, values apart from their table, never changed
	KindVersions Kind = 3 // MANIFEST-NNNNNN, the engine's own list of tables
	KindOptions  Kind = 4 // OPTIONS-NNNNNN
	KindMarker   Kind = 5 // marker.NAME.NNNNNN.VALUE, empty: the name says it all
)

// Names of the two markers a snapshot has.
const (
	markerVersions = "manifest"
	markerFormat   = "format-version"
)

// String names the kind for people.
func (k Kind) String() string {
	switch k {
	case KindTable:
		return "sst"
	case KindBlob:
		return "blob"
	case KindVersions:
		return "manifest"
	case KindOptions:
		return "options"
	case KindMarker:
		return "marker"
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// KindOf tells the kind of a file from its name. Only names exactly as the
// engine writes them are known, so a known name is one path element, in one
// spelling.
func KindOf(name string) (Kind, bool) {
	if len(name) > MaxName {
		return 0, false
	}
	if n, ok := strings.CutSuffix(name, ".sst"); ok {
		return KindTable, isFileNumber(n)
	}
	if n, ok := strings.CutSuffix(name, ".blob"); ok {
		return KindBlob, isFileNumber(n)
	}
	if n, ok := strings.CutPrefix(name, "MANIFEST-"); ok {
		return KindVersions, isFileNumber(n)
	}
	if n, ok := strings.CutPrefix(name, "OPTIONS-"); ok {
		return KindOptions, isFileNumber(n)
	}
	if _, _, ok := parseMarker(name); ok {
		return KindMarker, true
	}
	return 0, false
}

// isFileNumber reports whether s is a number as %06d prints it.
func isFileNumber(s string) bool {
	if len(s) < 6 || len(s) > 19 || (len(s) > 6 && s[0] == '0') {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// parseMarker takes marker.NAME.NNNNNN.VALUE apart.
func parseMarker(s string) (name, value string, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 4 || parts[0] != "marker" || !isFileNumber(parts[2]) {
		return "", "", false
	}
	name, value = parts[1], parts[3]
	switch name {
	case markerVersions:
		n, found := strings.CutPrefix(value, "MANIFEST-")
		return name, value, found && isFileNumber(n)
	case markerFormat:
		_, ok := formatVersion(value)
		return name, value, ok
	}
	return "", "", false
}

// formatVersion reads the value of a format-version marker, a number as %03d
// prints it.
func formatVersion(value string) (uint64, bool) {
	if len(value) < 3 || (len(value) > 3 && value[0] == '0') {
		return 0, false
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
	}
	v, err := strconv.ParseUint(value, 10, 32)
	return v, err == nil
}
