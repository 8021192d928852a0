// Package configs holds what people may write in Roost's configuration file: the
// types, their defaults, their validation and a commented example that is also
// the tests' input. Only cmd/roost imports it and translates it into the Options
// of the packages below, none of which knows of TOML.
package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Config is the whole file. The doc tags are the reference (roost config
// reference) and the comments of the example file; there is no other copy.
type Config struct {
	Coordinator Coordinator `mapstructure:"coordinator" doc:"The coordinator: knows which host holds which workspace, places jobs, keeps logs."`
	Agent       Agent       `mapstructure:"agent" doc:"The agent: keeps workspaces on a runner host and runs jobs in views of them."`
	Store       Store       `mapstructure:"store" doc:"The agent's store: how much of the disk it may have, and how it looks after what it keeps."`
}

// Coordinator configures roost coordinator.
type Coordinator struct {
	Listen     string `mapstructure:"listen" default:"127.0.0.1:7780" doc:"Address to listen on. Only loopback until hosts can be enrolled with certificates."`
	StateDir   string `mapstructure:"state_dir" default:"/var/lib/roost/coordinator" doc:"Directory of its database, logs, blobs and tokens. Owned by one process."`
	HostLease  string `mapstructure:"host_lease" default:"30s" doc:"How long a silent host keeps its jobs. Duration, 5s to 10m."`
	InfraTries int    `mapstructure:"infra_retries" default:"3" doc:"How often a job is tried again when its host, not its script, failed. 0 to 10."`

	ScrubInterval string `mapstructure:"scrub_interval" default:"168h" doc:"How often every blob is read and compared with its digest; hosts that still have a damaged one upload it again. Duration, at least 1h; 0s: never."`
	ScrubRate     string `mapstructure:"scrub_rate" default:"20MiB" doc:"Most bytes per second that are read for that. 0: no limit."`
}

// Agent configures roost agent.
type Agent struct {
	Name        string   `mapstructure:"name" default:"" doc:"Name of this host, unique among the coordinator's hosts. Empty: the machine's host name."`
	Coordinator string   `mapstructure:"coordinator" default:"http://127.0.0.1:7780" doc:"URL of the coordinator."`
	TokenFile   string   `mapstructure:"token_file" default:"/var/lib/roost/coordinator/agent.token" doc:"File with the agent's token. Must be readable by its owner alone."`
	Slots       int      `mapstructure:"slots" default:"0" doc:"How many jobs run at once. 0: one per two cores, at least one. At most 256."`
	Tags        []string `mapstructure:"tags" default:"" doc:"Tags that jobs may ask for. The host's name is always one of them."`
	StoreDir    string   `mapstructure:"store_dir" default:"/var/lib/roost/store" doc:"Directory of the workspaces. Owned by one process; keep it on the fastest disk."`
	BuildsDir   string   `mapstructure:"builds_dir" default:"/run/roost/builds" doc:"Where jobs see their workspace: one path per project, the same on every host. Needs root; without it the path is per slot."`
	RunAs       string   `mapstructure:"run_as" default:"" doc:"User that jobs run as. Empty: who called sudo, else nobody. Without root: who started the agent."`
	UploadRate  string   `mapstructure:"upload_rate" default:"0" doc:"Most bytes per second for background uploads, such as 100MiB. 0: no limit."`
}

// Store configures how roost agent keeps house in its store_dir.
type Store struct {
	Driver        string `mapstructure:"driver" default:"auto" doc:"How views are made: erofs, overlay, reflink or copy; auto takes the first of them that works here, roost doctor shows which and why. containers-storage only by name."`
	Backing       string `mapstructure:"backing" default:"none" doc:"xfs-loop: agent.store_dir becomes an XFS in the file STORE_DIR.xfs, made once, so that the first write to a large file clones it instead of copying it. For hosts on ext4; needs root, xfsprogs and an empty store_dir. none: the directory as it is."`
	BackingSize   string `mapstructure:"backing_size" default:"0" doc:"Size of that file, such as 200GiB; at least 320MiB. 0: half of what is free when it is made. It is grown at the agent's start and never shrunk."`
	BackingSpace  string `mapstructure:"backing_space" default:"reserved" doc:"reserved: the file takes up all its room at once. sparse: only what is used; a full disk below it then ends jobs with I/O errors."`
	MaxBytes      string `mapstructure:"max_bytes" default:"0" doc:"The most that the layers kept may take, such as 200GiB. 0: all of the file system."`
	HighWater     int    `mapstructure:"high_water" default:"90" doc:"Percent in use, of max_bytes or of the file system (bytes and inodes), above which layers are evicted that the blob store has, the longest unused first. 10 to 100."`
	LowWater      int    `mapstructure:"low_water" default:"80" doc:"Percent in use at which that ends. 1 to high_water - 1."`
	MinFree       string `mapstructure:"min_free" default:"1GiB" doc:"No jobs are taken while less than this is free, or less than a twentieth of a small file system: the smaller counts."`
	ScrubInterval string `mapstructure:"scrub_interval" default:"168h" doc:"How often the agent reads all that it keeps, compares it with its digests and repairs what is damaged. Duration, at least 1h; 0s: never."`
	ScrubRate     string `mapstructure:"scrub_rate" default:"20MiB" doc:"Most bytes per second that are read for that. 0: no limit."`
}

// Words of store.backing and store.backing_space.
const (
	XFSLoop = "xfs-loop"
	Sparse  = "sparse"
)

// minBacking is internal/backing's MinSize; nothing is imported here.
const minBacking = 320 << 20

// Drivers are the words of store.driver.
var Drivers = []string{"auto", "erofs", "overlay", "reflink", "copy", "containers-storage"}

// moved are keys that have another name now.
var moved = map[string]string{"agent.driver": "store.driver"}

// Default returns the configuration of an empty file.
func Default() Config {
	var c Config
	applyDefaults(&c)
	return c
}

// Load reads a file. Every problem is reported at once; unknown keys are problems.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("configuration %s: no such file; write one with: roost config example > %s", path, path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(string(b))
	if err != nil && strings.Contains(err.Error(), "\n") { // several, each on a line of its own
		return Config{}, fmt.Errorf("configuration %s:\n%w", path, err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads the text of a file.
func Parse(text string) (Config, error) {
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
	errs = append(errs, c.Validate())
	return c, errors.Join(errs...)
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

var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

// Validate checks everything and reports all that is wrong, each with its key.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, a...)))
	}
	if err := Loopback(c.Coordinator.Listen); err != nil {
		bad("coordinator.listen", "%v", err)
	}
	if d, err := time.ParseDuration(c.Coordinator.HostLease); err != nil || d < 5*time.Second || d > 10*time.Minute {
		bad("coordinator.host_lease", "%q is not a duration from 5s to 10m", c.Coordinator.HostLease)
	}
	if n := c.Coordinator.InfraTries; n < 0 || n > 10 {
		bad("coordinator.infra_retries", "%d is not from 0 to 10", n)
	}
	if err := scrubInterval(c.Coordinator.ScrubInterval); err != nil {
		bad("coordinator.scrub_interval", "%v", err)
	}
	if _, err := ParseSize(c.Coordinator.ScrubRate); err != nil {
		bad("coordinator.scrub_rate", "%v", err)
	}
	a := c.Agent
	if a.Name != "" && !nameRE.MatchString(a.Name) {
		bad("agent.name", "%q is not a host name of up to 64 letters, digits, dots, dashes", a.Name)
	}
	if u, err := url.Parse(a.Coordinator); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		bad("agent.coordinator", "%q is not a http or https URL", a.Coordinator)
	}
	if a.Slots < 0 || a.Slots > 256 {
		bad("agent.slots", "%d is not from 0 to 256", a.Slots)
	}
	for _, t := range a.Tags {
		if !nameRE.MatchString(t) {
			bad("agent.tags", "%q is not a tag of up to 64 letters, digits, dots, dashes", t)
		}
	}
	if _, err := ParseSize(a.UploadRate); err != nil {
		bad("agent.upload_rate", "%v", err)
	}
	c.Store.validate(bad)
	return errors.Join(errs...)
}

func scrubInterval(s string) error {
	if d, err := time.ParseDuration(s); err != nil || d != 0 && d < time.Hour {
		return fmt.Errorf("%q is not a duration of an hour or more, or 0s", s)
	}
	return nil
}

func (s *Store) validate(bad func(key, format string, a ...any)) {
	for _, k := range []struct {
		key, value string
		words      []string
	}{
		{"driver", s.Driver, Drivers},
		{"backing", s.Backing, []string{"none", XFSLoop}},
		{"backing_space", s.BackingSpace, []string{"reserved", Sparse}},
	} {
		if !slices.Contains(k.words, k.value) {
			bad("store."+k.key, "%q is none of %s", k.value, strings.Join(k.words, ", "))
		}
	}
	if n, err := ParseSize(s.BackingSize); err == nil && n != 0 && n < minBacking {
		bad("store.backing_size", "%q is less than 320MiB", s.BackingSize)
	}
	for _, k := range []struct{ key, value string }{
		{"max_bytes", s.MaxBytes}, {"min_free", s.MinFree}, {"scrub_rate", s.ScrubRate}, {"backing_size", s.BackingSize},
	} {
		if _, err := ParseSize(k.value); err != nil {
			bad("store."+k.key, "%v", err)
		}
	}
	if s.HighWater < 10 || s.HighWater > 100 {
		bad("store.high_water", "%d is not a percentage from 10 to 100", s.HighWater)
	}
	if err := scrubInterval(s.ScrubInterval); err != nil {
		bad("store.scrub_interval", "%v", err)
	}
	if s.LowWater < 1 || s.LowWater >= s.HighWater {
		bad("store.low_water", "%d is not from 1 to what is below high_water (%d)", s.LowWater, s.HighWater)
	}
}

// Loopback reports an address that more than this machine could reach.
func Loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%q can be reached from other machines; that needs TLS and enrolment, which this version does not have: use 127.0.0.1", addr)
}

// ParseSize reads "0", "1048576", "100MiB" or "1.5GB" as bytes.
func ParseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("%q is not a size such as 1048576 or 100MiB", s)
	}
	return int64(n), nil
}
