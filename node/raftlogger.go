package node

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
)

var _ raft.Logger = raftLogger{}

// Debug and its siblings implement raft.Logger.
func (r raftLogger) Debug(v ...any)            { r.log(slog.LevelDebug, fmt.Sprint(v...)) }
func (r raftLogger) Debugf(f string, v ...any) { r.log(slog.LevelDebug, fmt.Sprintf(f, v...)) }

// Info is what the library does in the ordinary course; debug for a node.
func (r raftLogger) Info(v ...any)               { r.log(slog.LevelDebug, fmt.Sprint(v...)) }
func (r raftLogger) Infof(f string, v ...any)    { r.log(slog.LevelDebug, fmt.Sprintf(f, v...)) }
func (r raftLogger) Warning(v ...any)            { r.log(slog.LevelWarn, fmt.Sprint(v...)) }
func (r raftLogger) Warningf(f string, v ...any) { r.log(slog.LevelWarn, fmt.Sprintf(f, v...)) }
func (r raftLogger) Error(v ...any)              { r.log(slog.LevelError, fmt.Sprint(v...)) }
func (r raftLogger) Errorf(f string, v ...any)   { r.log(slog.LevelError, fmt.Sprintf(f, v...)) }
func (r raftLogger) Fatal(v ...any)              { r.mustNot(fmt.Sprint(v...)) }
func (r raftLogger) Fatalf(f string, v ...any)   { r.mustNot(fmt.Sprintf(f, v...)) }
func (r raftLogger) Panic(v ...any)              { r.mustNot(fmt.Sprint(v...)) }
func (r raftLogger) Panicf(f string, v ...any)   { r.mustNot(fmt.Sprintf(f, v...)) }
