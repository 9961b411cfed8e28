package peer

import (
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// TestHelloFormat holds the bytes of version 1 of the handshake: members of
// different releases meet here first, so a change is a new version.
func TestHelloFormat(t *testing.T) {
	if Version != 1 {
		t.Fatalf("handshake version %d: add its bytes beside those of version 1", Version)
	}
	hello := &chainfirev1.PeerHello{Version: Version, ClusterId: 2, GenesisNonce: []byte{3}, From: 4, To: 5,
		DirectoryNonce: []byte{6}, BootNonce: []byte{7}, PeerUrls: []string{"p"}, ClientUrls: []string{"c"}, Name: "n"}
	const want = "0801" + "1002" + "1a0103" + "2004" + "2805" + "320106" + "3a0107" + "420170" + "4a0163" + "52016e"
	got, err := proto.MarshalOptions{Deterministic: true}.Marshal(hello)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
	frame, err := proto.MarshalOptions{Deterministic: true}.Marshal(&chainfirev1.PeerFrame{Hello: hello, Messages: [][]byte{{9}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(frame), "0a1a"+want+"120109"; got != want {
		t.Errorf("frame\ngot  %s\nwant %s", got, want)
	}
}
