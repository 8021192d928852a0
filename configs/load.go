package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// moved are keys that have another name now.
var moved = map[string]string{"agent.driver": "store.driver"}

// Default returns the configuration of an empty file.
func Default() Config {
	var c Config
	applyDefaults(&c)
	return c
}

// Load reads a file, and what the environment says instead (environ is
// os.Environ's). Every problem is reported at once; unknown keys are problems.
func Load(path string, environ []string) (Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("configuration %s: no such file; write one with: roost config example > %s", path, path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(string(b), environ)
	if err != nil && strings.Contains(err.Error(), "\n") { // several, each on a line of its own
		return Config{}, fmt.Errorf("configuration %s:\n%w", path, err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads the text of a file, and what the environment says instead.
func Parse(text string, environ []string) (Config, error) {
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(text)); err != nil {
		return Config{}, fmt.Errorf("not TOML: %w", err)
	}
	c := Default()
	var md mapstructure.Metadata
	errs := wrongTypes(v.Unmarshal(&c, func(d *mapstructure.DecoderConfig) { d.Metadata = &md }))
	unknown := md.Unused
	if len(errs) > 0 { // it stopped looking
		unknown = slices.DeleteFunc(v.AllKeys(), isKey)
	}
	errs = append(errs, unknownKeys(unknown)...)
	errs = append(errs, override(&c, environ)...)
	errs = append(errs, c.Validate())
	return c, errors.Join(errs...)
}

// Problems takes an error of Load, Parse or CheckFiles apart: a text for each thing that
// is wrong.
func Problems(err error) []string {
	var list interface{ Unwrap() []error }
	if err == nil {
		return nil
	}
	if !errors.As(err, &list) {
		return []string{err.Error()}
	}
	var all []string
	for _, e := range list.Unwrap() {
		all = append(all, Problems(e)...)
	}
	return all
}

// wrongTypes says of each key that could not be decoded what it takes.
func wrongTypes(err error) []error {
	var (
		key  *mapstructure.DecodeError
		list interface{ Unwrap() []error }
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &list):
		var all []error
		for _, e := range list.Unwrap() {
			all = append(all, wrongTypes(e)...)
		}
		return all
	case !errors.As(err, &key):
		return []error{err}
	}
	var (
		text *mapstructure.ParseError
		kind *mapstructure.UnconvertibleTypeError
	)
	switch {
	case errors.As(err, &text):
		return []error{fmt.Errorf("%s: want %s, not %q", key.Name(), typeWord(text.Expected.Kind()), fmt.Sprint(text.Value))}
	case errors.As(err, &kind):
		return []error{fmt.Errorf("%s: want %s, not %v", key.Name(), typeWord(kind.Expected.Kind()), kind.Value)}
	}
	return []error{fmt.Errorf("%s: %w", key.Name(), key.Unwrap())}
}

// typeWord is how people call a kind of value.
func typeWord(k reflect.Kind) string {
	switch k {
	case reflect.Int:
		return "an integer"
	case reflect.Slice:
		return "a list of strings"
	case reflect.Struct:
		return "a table"
	default:
		return "a " + k.String()
	}
}

func unknownKeys(keys []string) []error {
	slices.Sort(keys)
	var errs []error
	for _, k := range keys {
		msg := fmt.Sprintf("unknown key %q", k)
		if now := moved[k]; now != "" {
			msg += ": it is " + now + " now"
		} else if near := nearest(k); near != "" {
			msg += fmt.Sprintf(" (did you mean %q?)", near)
		}
		errs = append(errs, errors.New(msg))
	}
	return errs
}
