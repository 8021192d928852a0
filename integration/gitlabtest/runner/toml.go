package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// file is a config.toml, as far as tests need it.
type file struct {
	Concurrent int
	Runners    []struct {
		Name, URL, Token, Executor string
		Limit                      int
		BuildsDir                  string `toml:"builds_dir"`
		CacheDir                   string `toml:"cache_dir"`
		Environment                []string
		FeatureFlags               map[string]bool         `toml:"feature_flags"`
		CustomBuildDir             *struct{ Enabled bool } `toml:"custom_build_dir"`
		Docker                     *struct {
			Image, Host string
			HelperImage string `toml:"helper_image"`
			Volumes     []string
			NetworkMode string `toml:"network_mode"`
		}
	}
}

// serviceConfig is what the command line of a service says: that of "gitlab-runner run".
// Waits are scaled, and the log goes to standard error, as a real runner's does.
func serviceConfig(args []string, scale float64) (Config, error) {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	var path, dir, user, service string
	f.StringVar(&path, "config", "/etc/gitlab-runner/config.toml", "")
	f.StringVar(&dir, "working-directory", "", "")
	f.StringVar(&user, "user", "", "")
	f.StringVar(&service, "service", "gitlab-runner", "")
	if err := f.Parse(args); err != nil {
		return Config{}, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var in file
	if err := toml.Unmarshal(b, &in); err != nil {
		return Config{}, err
	}
	if dir != "" {
		if err := os.Chdir(dir); err != nil {
			return Config{}, err
		}
	}
	c := Config{Concurrent: in.Concurrent, Scale: scale, Log: os.Stderr}
	for _, r := range in.Runners {
		e := Entry{
			Name: r.Name, URL: r.URL, Token: r.Token, Executor: r.Executor, Limit: r.Limit, BuildsDir: r.BuildsDir,
			CacheDir: r.CacheDir, Environment: r.Environment, FeatureFlags: r.FeatureFlags, User: user,
		}
		if r.CustomBuildDir != nil {
			e.CustomBuildDir = &r.CustomBuildDir.Enabled
		}
		if d := r.Docker; d != nil {
			e.User = ""
			e.Docker = &Docker{Image: d.Image, HelperImage: d.HelperImage, Volumes: d.Volumes, NetworkMode: d.NetworkMode, Host: d.Host}
		}
		c.Entries = append(c.Entries, e)
	}
	c.SystemID, err = systemID(filepath.Join(filepath.Dir(path), ".runner_system_id"))
	return c, err
}

// serve is a service's process: it goes on without any runners, and takes over what its
// file says when that changes. Jobs under way do not mind.
func serve(ctx context.Context, c Config, args []string, quit <-chan os.Signal) error {
	var old sync.WaitGroup
	defer old.Wait()
	for {
		r, err := New(c)
		if err != nil {
			return err
		}
		old.Go(func() {
			if err := r.Run(ctx); err != nil {
				r.logf("%v", err)
			}
		})
		next := c
		for reflect.DeepEqual(c, next) {
			select {
			case <-quit:
				r.Quit()
				return nil
			case <-ctx.Done():
				return nil
			case <-time.After(c.scaled(3 * time.Second)):
			}
			if next, err = serviceConfig(args, c.Scale); err != nil {
				r.logf("the file stays as it was: %v", err)
				next = c
			}
		}
		r.logf("the file has changed")
		r.Quit()
		c = next
	}
}

// systemID is kept beside the configuration.
func systemID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return strings.TrimSpace(string(b)), err
	}
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", err
	}
	s := "r_" + hex.EncodeToString(id[:])
	return s, os.WriteFile(path, []byte(s), 0o600)
}
