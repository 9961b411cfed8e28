package main

import (
	"encoding/hex"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/internal/fault"
)

// keyArgument reads a key or value of the command line: text, or hex with --hex.
func keyArgument(c *cli.Context, i int) ([]byte, error) {
	text := c.Args().Get(i)
	if !c.Bool("hex") {
		return []byte(text), nil
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, fault.Newf(fault.Usage, "", "--hex: %q is not an even number of hex digits", text)
	}
	return b, nil
}

// keyRange reads "KEY [RANGE_END]", --prefix and --from-key as etcd's pair of key
// and end: no end = one key, the end {0} = everything from the key on.
func keyRange(c *cli.Context) (key, end []byte, err error) {
	if key, err = keyArgument(c, 0); err != nil {
		return nil, nil, err
	}
	prefix, from := c.Bool("prefix"), c.Bool("from-key")
	switch {
	case prefix && from:
		return nil, nil, fault.Newf(fault.Usage, "", "--prefix and --from-key exclude each other")
	case prefix && c.NArg() > 1:
		return nil, nil, fault.Newf(fault.Usage, "", "--prefix and RANGE_END exclude each other")
	case from && c.NArg() > 1:
		return nil, nil, fault.Newf(fault.Usage, "", "--from-key and RANGE_END exclude each other")
	case (prefix || from) && len(key) == 0:
		return []byte{0}, []byte{0}, nil // every key
	case prefix:
		return key, prefixEnd(key), nil
	case from:
		return key, []byte{0}, nil
	case c.NArg() > 1:
		end, err = keyArgument(c, 1)
	}
	if err == nil && len(key) == 0 {
		err = fault.Newf(fault.Usage, "", "the key is empty").WithHint("--prefix with an empty key means every key")
	}
	return key, end, err
}

// prefixEnd gives the first key after all keys that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

func hexFlag() cli.Flag {
	return &cli.BoolFlag{Name: "hex", Usage: "keys and values are hex, on the command line and in the result"}
}

// rangeFlags widen KEY to more than one.
func rangeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "prefix", Usage: "all keys that begin with KEY"},
		&cli.BoolFlag{Name: "from-key", Usage: "all keys from KEY on"},
	}
}

func prevFlag() cli.Flag {
	return &cli.BoolFlag{Name: "prev-kv", Usage: "also what was there before"}
}

// shower writes keys and values as text, or as hex where that is asked for.
func shower(asHex bool) func([]byte) string {
	if asHex {
		return hex.EncodeToString
	}
	return func(b []byte) string { return string(b) }
}

func revisionOf(h *etcdserverpb.ResponseHeader) int64 { return h.GetRevision() }
