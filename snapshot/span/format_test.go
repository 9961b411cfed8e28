package span

import (
	"encoding/hex"
	"testing"
)

// TestFormat holds the bytes of lists, requests and answers: two versions of the
// program speak to each other in them.
func TestFormat(t *testing.T) {
	src := table{{Key: []byte("aa"), Value: []byte("1")}, {Key: []byte("ab"), Value: []byte("22")}, {Key: []byte("b"), Value: nil}}
	w := NewWalk(&rows{t: src})
	first, err := w.To([]byte("ab"), nil)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := w.To(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var req Request
	req.Add(nil, []byte("ab"), []uint32{0x04030201})
	req.Add([]byte("ab"), nil, nil)
	a := NewAnswerer(&rows{t: src})
	var answer []byte
	if err := ReadRequest(req.Encoded(), func(w Wanted) (err error) { answer, _, err = a.Append(answer, w); return err }); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"framed record": {frame(nil, []byte("k"), []byte("vv")), "01000000" + "6b" + "02000000" + "7676"},
		"list": {rest.Append(first.Append(nil, nil), []byte("ab")),
			"0002" + "6162" + "02" + "07" + "4a801c8604298552bd9f3eb360d9cb6e" + "0000" + "01" + "01" + "784bc948e9ed8b54ca171f74231cddb4"},
		"request": {req.Encoded(), "0000" + "0002" + "6162" + "01" + "01020304" + "0200" + "0000" + "00"},
		"answer":  {answer, "01" + "02" + "0002" + "6161" + "01" + "31" + "0101" + "62" + "02" + "3232" + "01" + "0001" + "62" + "00"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}
