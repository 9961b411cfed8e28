package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

// maxConfigBytes bounds the configuration file; it holds a few dozen flags.
const maxConfigBytes = 1 << 20

// sections are the parts of etcd's configuration file that hold flags under
// other names. A key that etcd has there and no flag for is "".
var sections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file", "client-key-file": "client-key-file",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": "", "allowed-hostname": "client-cert-allowed-hostname", "skip-client-san-verification": "",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname", "skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
}

// applyConfigFile sets the flags that a YAML file names and that neither the
// command line nor the environment does: a map from flag names to values, lists
// for what takes commas. etcd's own file is such a map, with sections. An
// unknown name is a usage error, since a setting that is silently ignored is
// worse than none.
func applyConfigFile(c *cli.Context, path string) error {
	op := "--config " + path
	text, err := readConfigFile(path)
	if err != nil {
		return fault.New(fault.Usage, op, err)
	}
	return applyConfig(c, op, text)
}

func applyConfig(c *cli.Context, op string, text []byte) (err error) {
	var settings map[string]any
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return fault.New(fault.Usage, op, err)
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		section, is := sections[name]
		if !is {
			if err := applySetting(c, name, name, value); err != nil {
				return fault.New(fault.Usage, op, err)
			}
			continue
		}
		inside, isMap := value.(map[string]any)
		if !isMap && value != nil {
			return fault.Newf(fault.Usage, op, "%s: want names and values, not %T", name, value)
		}
		for _, key := range slices.Sorted(maps.Keys(inside)) {
			flag, known := section[key]
			switch {
			case !known:
				err = unknownSetting(name+": "+key, key, slices.Sorted(maps.Keys(section)))
			case flag == "" && inside[key] != nil && inside[key] != false:
				err = fmt.Errorf("%s: %s: etcd has no flag for it, and neither is there one here", name, key)
			case flag != "":
				err = applySetting(c, name+": "+key, flag, inside[key])
			}
			if err != nil {
				return fault.New(fault.Usage, op, err)
			}
		}
	}
	return nil
}

func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(text) > maxConfigBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxConfigBytes)
	}
	return text, nil
}

// applySetting sets a flag; written is how the file names it. Nothing is no
// setting.
func applySetting(c *cli.Context, written, name string, value any) error {
	var (
		flag  cli.Flag
		known []string
	)
	for _, f := range c.Command.Flags {
		if command.Shown(f) {
			known = append(known, f.Names()...)
		}
		if slices.Contains(f.Names(), name) {
			flag = f
		}
	}
	if flag == nil || flag.Names()[0] == "config" {
		return unknownSetting(written, name, append(known, slices.Sorted(maps.Keys(sections))...))
	}
	if value == nil || c.IsSet(name) {
		return nil
	}
	text, err := settingOf(flag, value)
	if err == nil {
		err = c.Set(name, text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", written, err)
	}
	return nil
}

func unknownSetting(written, name string, known []string) error {
	err := fault.Newf(fault.Usage, "", "%q is not a flag of this command", written)
	if near := command.Nearest(name, known); near != "" {
		return err.WithHint("did you mean %s?", near)
	}
	return err.WithHint("cfseed node --help lists them")
}

// settingOf writes a YAML value as it would stand on the command line.
func settingOf(flag cli.Flag, value any) (string, error) {
	if n, isInt := value.(int); isInt {
		if _, isDuration := flag.(*cli.DurationFlag); isDuration {
			return time.Duration(n).String(), nil // etcd's file has nanoseconds
		}
	}
	switch v := value.(type) {
	case string, bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		var parts []string
		for _, item := range v {
			s, err := settingOf(flag, item)
			if err != nil {
				return "", err
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("want a value or a list of values, not %T", value)
	}
}
