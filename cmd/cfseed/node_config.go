package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"gopkg.in/yaml.v3"

	"github.com/chainfire/cfseed/internal/fault"
)

// maxConfigBytes bounds the configuration file; it holds a few dozen flags.
const maxConfigBytes = 1 << 20

// applyConfigFile sets the flags that a YAML file names and the command line
// does not: a map from flag names to values, lists for what takes commas. An
// unknown name is a usage error, since a setting that is silently ignored is
// worse than none.
func applyConfigFile(c *cli.Context, path string) error {
	op := "--config " + path
	f, err := os.Open(path)
	if err != nil {
		return fault.New(fault.Usage, op, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fault.New(fault.Usage, op, err)
	}
	if len(text) > maxConfigBytes {
		return fault.Newf(fault.Usage, op, "larger than %d bytes", maxConfigBytes)
	}
	var settings map[string]any
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return fault.New(fault.Usage, op, err)
	}
	var known []string
	for _, flag := range c.Command.Flags {
		known = append(known, flag.Names()[0])
	}
	for name, value := range settings {
		if !slices.Contains(known, name) || name == "config" {
			return fault.Newf(fault.Usage, op, "%q is not a flag of this command", name).WithHint("cfseed node --help lists them")
		}
		if c.IsSet(name) {
			continue
		}
		text, err := settingOf(value)
		if err != nil {
			return fault.Newf(fault.Usage, op, "%s: %w", name, err)
		}
		if err := c.Set(name, text); err != nil {
			return fault.Newf(fault.Usage, op, "%s: %w", name, err)
		}
	}
	return nil
}

// settingOf writes a YAML value as it would stand on the command line.
func settingOf(value any) (string, error) {
	switch v := value.(type) {
	case string, bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		var parts []string
		for _, item := range v {
			s, err := settingOf(item)
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
