package raftloop

import (
	"context"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
)

// NewLogger passes the library's log on. Its Panic and Fatal panic, which Loop
// turns into an error.
func NewLogger(l *slog.Logger) raft.Logger { return slogger{l: l} }

type slogger struct {
	discard
	l *slog.Logger
}

func (s slogger) print(level slog.Level, v []any) {
	if s.l.Enabled(context.Background(), level) {
		s.l.Log(context.Background(), level, fmt.Sprint(v...))
	}
}

func (s slogger) printf(level slog.Level, format string, v []any) {
	if s.l.Enabled(context.Background(), level) {
		s.l.Log(context.Background(), level, fmt.Sprintf(format, v...))
	}
}

func (s slogger) Debug(v ...any)              { s.print(slog.LevelDebug, v) }
func (s slogger) Debugf(f string, v ...any)   { s.printf(slog.LevelDebug, f, v) }
func (s slogger) Info(v ...any)               { s.print(slog.LevelInfo, v) }
func (s slogger) Infof(f string, v ...any)    { s.printf(slog.LevelInfo, f, v) }
func (s slogger) Warning(v ...any)            { s.print(slog.LevelWarn, v) }
func (s slogger) Warningf(f string, v ...any) { s.printf(slog.LevelWarn, f, v) }
func (s slogger) Error(v ...any)              { s.print(slog.LevelError, v) }
func (s slogger) Errorf(f string, v ...any)   { s.printf(slog.LevelError, f, v) }

// discard logs nothing and panics where the library wants the process to end.
type discard struct{}

func (discard) Debug(...any)              {}
func (discard) Debugf(string, ...any)     {}
func (discard) Info(...any)               {}
func (discard) Infof(string, ...any)      {}
func (discard) Warning(...any)            {}
func (discard) Warningf(string, ...any)   {}
func (discard) Error(...any)              {}
func (discard) Errorf(string, ...any)     {}
func (discard) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (discard) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (discard) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (discard) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
