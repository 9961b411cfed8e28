package command

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/internal/fault"
)

// Names of flags that the frame itself reads.
const (
	flagOutput      = "output"
	flagOutputShort = "o"
	flagLogLevel    = "log-level"
	flagDeadline    = "deadline"
)

// Time limits of the two kinds of commands.
const (
	ShortTimeout = 5 * time.Second
	IdleTimeout  = time.Minute
)

// Categories of flags in help texts.
const (
	categoryConnection = "CONNECTION"
	categoryOutput     = "OUTPUT"
	categorySeeding    = "SEEDING"
)

// Flags joins a command's own flags with groups, own first.
func Flags(own []cli.Flag, groups ...[]cli.Flag) []cli.Flag {
	return slices.Concat(append([][]cli.Flag{own}, groups...)...)
}

// OutputFlags are taken by every command.
func OutputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: flagOutput, Aliases: []string{flagOutputShort}, Value: "text", Category: categoryOutput,
			Usage: "`FORMAT` of results and failures: text or json"},
		&cli.StringFlag{Name: flagLogLevel, Value: "info", Category: categoryOutput,
			Usage: "`LEVEL` of the log on stderr: debug, info, warn, error"},
	}
}

// ShortClientFlags are taken by commands that make one short call.
func ShortClientFlags() []cli.Flag {
	return clientFlags(ShortTimeout, "end a call that takes longer than `DURATION`")
}

// LongClientFlags are taken by commands that follow something that takes its
// time; --timeout is the time without progress.
func LongClientFlags() []cli.Flag {
	return clientFlags(IdleTimeout, "end after `DURATION` without any progress")
}

func clientFlags(timeout time.Duration, meaning string) []cli.Flag {
	return Flags([]cli.Flag{
		&cli.StringFlag{Name: "endpoints", Value: "http://127.0.0.1:2379", Category: categoryConnection,
			Usage: "client `ADDRESSES`, separated by commas; the first that answers is used"},
	}, TimeFlags(timeout, meaning), SecurityFlags())
}

// TimeFlags are the time limits of a command; meaning explains --timeout.
func TimeFlags(timeout time.Duration, meaning string) []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "timeout", Value: timeout, Category: categoryConnection, Usage: meaning},
		&cli.DurationFlag{Name: flagDeadline, Category: categoryConnection,
			Usage: "end the command after `DURATION`, whatever it does"},
	}
}

// SecurityFlags say whom a client trusts and who it is.
func SecurityFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cacert", Category: categoryConnection, Usage: "trust servers certified by `FILE`"},
		&cli.StringFlag{Name: "cert", Category: categoryConnection, Usage: "our certificate, `FILE`"},
		&cli.StringFlag{Name: "key", Category: categoryConnection, Usage: "our private key, `FILE`"},
		&cli.StringFlag{Name: "user", Category: categoryConnection, Usage: "`NAME:PASSWORD`, or NAME"},
		&cli.StringFlag{Name: "password", Category: categoryConnection, Usage: "the `PASSWORD` of --user NAME"},
	}
}

// SeedingFlags say how a seed is moved.
func SeedingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "rate-limit", Value: new(Bytes), Category: categorySeeding,
			Usage: "move at most `BYTES` per second, as 100MiB"},
		&cli.StringFlag{Name: "compression", Value: "auto", Category: categorySeeding,
			Usage: "`KIND` of compression on the wire: auto, zstd, s2, none"},
	}
}

// JoinTokenFlag is what a node that waits is to be shown.
func JoinTokenFlag() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "join-token", Category: categorySeeding,
		Usage: "`TOKEN` that the waiting node was started with"}}
}

// CompressionOf reads --compression.
func CompressionOf(c *cli.Context) (string, error) {
	kind := c.String("compression")
	if !slices.Contains([]string{"auto", "zstd", "s2", "none"}, kind) {
		return "", fault.Newf(fault.Usage, "", "--compression %q: want auto, zstd, s2 or none", kind)
	}
	return kind, nil
}

// Dialer makes the dialer that the client flags describe. endpoints stands for
// --endpoints unless empty.
func Dialer(c *cli.Context, endpoints ...string) (*dial.Dialer, error) {
	if len(endpoints) == 0 {
		endpoints = strings.Split(c.String("endpoints"), ",")
	}
	return dial.New(dial.Config{
		Endpoints: endpoints,
		Timeout:   c.Duration("timeout"),
		CACert:    c.String("cacert"),
		Cert:      c.String("cert"),
		Key:       c.String("key"),
		User:      c.String("user"),
		Password:  c.String("password"),
	})
}

// setEnvironment lets the environment set a flag: CFSEED_ and its name, before
// what the flag names itself.
func setEnvironment(f cli.Flag) {
	if vars := environmentOf(f); vars != nil {
		*vars = append([]string{environmentName(f.Names()[0])}, *vars...)
	}
}

// AlsoByEnvironment lets another program's environment set its flags: the
// prefix and the flag's last long name.
func AlsoByEnvironment(prefix string, flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		name := f.Names()[0]
		for _, n := range f.Names() {
			if len(n) > 1 {
				name = n
			}
		}
		if vars := environmentOf(f); vars != nil {
			*vars = append(*vars, prefix+upper(name))
		}
	}
	return flags
}

// environmentOf gives the names of the variables that set a flag.
func environmentOf(f cli.Flag) *[]string {
	switch f := f.(type) {
	case *cli.StringFlag:
		return &f.EnvVars
	case *cli.BoolFlag:
		return &f.EnvVars
	case *cli.DurationFlag:
		return &f.EnvVars
	case *cli.IntFlag:
		return &f.EnvVars
	case *cli.Int64Flag:
		return &f.EnvVars
	case *cli.UintFlag:
		return &f.EnvVars
	case *cli.Uint64Flag:
		return &f.EnvVars
	case *cli.Float64Flag:
		return &f.EnvVars
	case *cli.GenericFlag:
		return &f.EnvVars
	case *cli.StringSliceFlag:
		return &f.EnvVars
	}
	return nil
}

func environmentName(flag string) string { return "CFSEED_" + upper(flag) }

func upper(flag string) string { return strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) }

// Bytes is a flag value: a number of bytes, with or without a unit (B, KB, MB,
// GB, TB; KiB, MiB, GiB, TiB).
type Bytes uint64

// BytesOf reads a flag of type Bytes.
func BytesOf(c *cli.Context, name string) uint64 {
	if b, ok := c.Generic(name).(*Bytes); ok {
		return uint64(*b)
	}
	return 0
}

// Set parses s.
func (b *Bytes) Set(s string) error {
	digits := strings.TrimRightFunc(s, func(r rune) bool { return unicode.IsLetter(r) || r == ' ' })
	unit, known := map[string]float64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[strings.ToLower(strings.TrimSpace(s[len(digits):]))]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || n < 0 || n*unit >= math.MaxUint64 || math.IsNaN(n) {
		return fmt.Errorf("%q is not a number of bytes such as 1048576, 512KiB or 100MiB", s)
	}
	*b = Bytes(n * unit)
	return nil
}

// Get gives the number, for flag.Getter.
func (b *Bytes) Get() any { return uint64(*b) }

// String gives what Set reads.
func (b *Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if b != nil && *b >= u.size && *b%u.size == 0 {
			return fmt.Sprintf("%d%s", *b/u.size, u.name)
		}
	}
	if b == nil {
		return "0"
	}
	return strconv.FormatUint(uint64(*b), 10)
}

// Millis is a flag value: a duration above nothing. A number without a unit is
// milliseconds, as etcd has it.
type Millis time.Duration

// MillisOf reads a flag of type Millis.
func MillisOf(c *cli.Context, name string) time.Duration {
	if m, ok := c.Generic(name).(*Millis); ok {
		return time.Duration(*m)
	}
	return 0
}

// Set parses s.
func (m *Millis) Set(s string) error {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		s += "ms"
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no duration above nothing, such as 100 (milliseconds) or 1s", s)
	}
	*m = Millis(d)
	return nil
}

// Get gives the duration, for flag.Getter.
func (m *Millis) Get() any { return time.Duration(*m) }

// String gives what Set reads.
func (m *Millis) String() string {
	if m == nil {
		return "0s"
	}
	return time.Duration(*m).String()
}
