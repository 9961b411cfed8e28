//go:build !linux

package transfer

const rawFiles = false
