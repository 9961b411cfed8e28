package raftloop

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
)

// Limits bound memory. Zero fields take the value in brackets.
type Limits struct {
	MessageBytes     uint64 // entries in one append message [1 MiB]
	ApplyBytes       uint64 // entries handed out and not yet applied [4 MiB]
	UncommittedBytes uint64 // a leader's entries not yet committed; more are dropped [64 MiB]
	InflightMessages int    // append messages on their way to one peer [256]
	InflightBytes    uint64 // bytes of them [64 MiB]
}

func (l Limits) withDefaults() Limits {
	def := func(v *uint64, d uint64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.MessageBytes, 1<<20)
	def(&l.ApplyBytes, 4<<20)
	def(&l.UncommittedBytes, 64<<20)
	def(&l.InflightBytes, 64<<20)
	if l.InflightMessages == 0 {
		l.InflightMessages = 256
	}
	return l
}

// Config parametrises a Loop.
type Config struct {
	ID             uint64
	ElectionTicks  int // least ticks without a leader before a campaign
	HeartbeatTicks int // ticks between heartbeats; less than ElectionTicks
	Seed           uint64
	Storage        raft.Storage
	Applied        uint64 // index of the last entry in the state
	Limits         Limits
	Logger         raft.Logger // nil: nothing is logged
	// OnReject is told of each message that was dropped, and why. nil is fine.
	OnReject func(m *raftpb.Message, reason error)
}

func (cfg Config) raft(s raft.Storage) *raft.Config {
	return &raft.Config{
		ID:                        cfg.ID,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		Storage:                   s,
		Applied:                   cfg.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             cfg.Limits.MessageBytes,
		MaxCommittedSizePerReady:  cfg.Limits.ApplyBytes,
		MaxUncommittedEntriesSize: cfg.Limits.UncommittedBytes,
		MaxInflightMsgs:           cfg.Limits.InflightMessages,
		MaxInflightBytes:          cfg.Limits.InflightBytes,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		StepDownOnRemoval:         true,
		Logger:                    cfg.Logger,
	}
}

// checkStorage refuses what the library would panic on: a state that lies
// behind the log's first entry or beyond what is committed.
func checkStorage(cfg Config) error {
	if cfg.Storage == nil {
		return fault.Newf(fault.Usage, "start raft", "no storage")
	}
	hs, _, err := cfg.Storage.InitialState()
	if err != nil {
		return fault.New(fault.CodeOf(err), "read raft state", err)
	}
	first, err := cfg.Storage.FirstIndex()
	if err != nil {
		return fault.New(fault.CodeOf(err), "read raft log", err)
	}
	last, err := cfg.Storage.LastIndex()
	if err != nil {
		return fault.New(fault.CodeOf(err), "read raft log", err)
	}
	commit := hs.GetCommit()
	if raft.IsEmptyHardState(hs) {
		commit = first - 1
	}
	switch {
	case commit < first-1 || commit > last:
		return fault.Newf(fault.Corrupt, "start raft", "commit index %d lies outside the log [%d, %d]", commit, first-1, last)
	case cfg.Applied < first-1:
		return fault.Newf(fault.Corrupt, "start raft", "state at index %d, but the log begins at %d", cfg.Applied, first)
	case cfg.Applied > commit:
		return fault.Newf(fault.Corrupt, "start raft", "state at index %d, but only %d is committed", cfg.Applied, commit)
	}
	return nil
}
