package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/chainfire/cfseed/snapshot/manifest"
)

// pages is a source of two files of zeros that notes what is done with it.
type pages struct{ did []string }

func (p *pages) Manifest() *manifest.Manifest {
	return &manifest.Manifest{ChunkSize: 100, Files: []manifest.File{{Size: 150, Chunks: make([]uint64, 2)}, {Size: 7, Chunks: make([]uint64, 1)}}}
}

func (p *pages) ManifestBytes() []byte { return nil }

func (p *pages) ReadChunk(_ context.Context, file, index int, buf []byte) ([]byte, error) {
	p.did = append(p.did, fmt.Sprintf("read %d/%d", file, index))
	return buf, nil
}

// TestPaced: a snapshot asks for leave for each chunk, before it reads it.
func TestPaced(t *testing.T) {
	p := &pages{}
	var refuse error
	src := archived{seed: paced{p, func(_ context.Context, n int) error {
		p.did = append(p.did, fmt.Sprintf("wait %d", n))
		return refuse
	}}}
	if err := src.Write(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := []string{"wait 100", "read 0/0", "wait 50", "read 0/1", "wait 7", "read 1/0"}; !slices.Equal(p.did, want) {
		t.Errorf("%q", p.did)
	}
	p.did, refuse = nil, errors.New("ended")
	if err := src.Write(t.Context(), io.Discard); !errors.Is(err, refuse) || len(p.did) != 1 {
		t.Errorf("%v after %q", err, p.did)
	}
}
