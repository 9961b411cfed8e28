package ident

import "testing"

func TestID(t *testing.T) {
	for text, want := range map[string]uint64{"0000000000000001": 1, "ffffffffffffffff": 1<<64 - 1, "8e9e05c52164694d": 0x8e9e05c52164694d} {
		if got := FormatID(want); got != text {
			t.Errorf("FormatID(%d) = %s, want %s", want, got, text)
		}
		if got, err := ParseID(text); err != nil || got != want {
			t.Errorf("ParseID(%s) = %d, %v", text, got, err)
		}
	}
	if got, err := ParseID("1f"); err != nil || got != 31 {
		t.Errorf("short hex: %d, %v", got, err)
	}
	for _, bad := range []string{"", "xyz", "-1", "0x1", "10000000000000000"} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %d", bad, got)
		}
	}
}

func TestNonce(t *testing.T) {
	n := Nonce{1, 2, 3}
	back, err := NonceFrom(n.Bytes())
	if err != nil || back != n {
		t.Errorf("%v, %v", back, err)
	}
	if unknown, err := NonceFrom(nil); err != nil || !unknown.IsZero() {
		t.Errorf("no bytes: %v, %v", unknown, err)
	}
	if (Nonce{}).Bytes() != nil {
		t.Error("an unknown nonce has bytes")
	}
	for _, size := range []int{1, 15, 17} {
		if _, err := NonceFrom(make([]byte, size)); err == nil {
			t.Errorf("a nonce of %d bytes was taken", size)
		}
	}
}

func TestClusterSame(t *testing.T) {
	a, b := Nonce{1}, Nonce{2}
	for _, c := range []struct {
		x, y Cluster
		same bool
	}{
		{Cluster{1, a}, Cluster{1, a}, true},
		{Cluster{1, a}, Cluster{1, Nonce{}}, true}, // not known yet on one side
		{Cluster{1, Nonce{}}, Cluster{1, Nonce{}}, true},
		{Cluster{1, a}, Cluster{1, b}, false}, // formed twice with the same flags
		{Cluster{1, a}, Cluster{2, a}, false},
	} {
		if c.x.Same(c.y) != c.same || c.y.Same(c.x) != c.same {
			t.Errorf("%v and %v: same %v, want %v", c.x, c.y, !c.same, c.same)
		}
	}
}
