//go:build race

package raftlog

const crashEvery = 10
