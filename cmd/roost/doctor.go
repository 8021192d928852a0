package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
)

// finding is one line of the doctor's report.
type finding struct {
	Check string `json:"check"`
	// State is ok, warn (works, with less) or bad (a job could not run).
	State string `json:"state"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // what to change

	Driver     *driverFinding `json:"driver,omitempty"`
	FirstWrite *firstWrite    `json:"first_write,omitempty"`
}

type doctorOptions struct {
	dir, url, pin, config string
	asJSON                bool
}

func newDoctor() *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this host can do and what to change for more",
		Long: `Tries what an agent would do on this host: which drivers can make views in the
store directory, as whom and where jobs run, which tools they find, how much room
there is. Ends with status 1 if a job could not run.` + exitHelp,
		Example: "  roost doctor --store-dir /var/lib/roost/store",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := c.Flags()
	f.StringVar(&o.dir, "store-dir", defaultState(), "where the store would be")
	f.StringVar(&o.config, "config", "", "an agent's configuration file: its store, and how views are to be made there")
	f.StringVar(&o.url, "coordinator", os.Getenv("ROOST_COORDINATOR"), "URL of a coordinator to try")
	f.StringVar(&o.pin, "pin", os.Getenv("ROOST_PIN"), "pin of that coordinator's certificate")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	return c
}

func (o *doctorOptions) run(cmd *cobra.Command) error {
	want := configs.Default().Store
	if o.config != "" {
		cfg, err := loadConfig(o.config)
		if err != nil {
			return err
		}
		want = cfg.Store
		if !cmd.Flags().Changed("store-dir") {
			o.dir = cfg.Agent.StoreDir
		}
	}
	list := o.examine(cmd.Context(), want)
	if o.asJSON {
		if err := printIndented(cmd.OutOrStdout(), list); err != nil {
			return err
		}
	} else {
		printFindings(cmd.OutOrStdout(), list)
	}
	for _, f := range list {
		if f.State == "bad" {
			return &exitError{code: exitFailed}
		}
	}
	return nil
}

func printFindings(w io.Writer, list []finding) {
	mark := map[string]string{"ok": "ok  ", "warn": "warn", "bad": "BAD "}
	for _, f := range list {
		fmt.Fprintf(w, "%s  %-12s %s\n", mark[f.State], f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(w, "      %-12s -> %s\n", "", f.Fix)
		}
	}
}

func (o *doctorOptions) examine(ctx context.Context, want configs.Store) []finding {
	dir := o.dir
	list := []finding{{Check: "host", State: "ok", Text: hostLine()}, checkUser()}
	store := checkWritable(dir)
	list = append(list, store)
	if store.State == "ok" {
		list = append(list, checkFileSystem(ctx, existing(dir)))
		list = append(list, checkBacking(existing(dir), want)...)
		list = append(list, checkDrivers(existing(dir), want.Driver)...)
	}
	list = append(list, checkDisk(dir), checkTool(ctx, "bash", "jobs' scripts run in it", "bad"),
		checkTool(ctx, "git", "jobs' sources come through it", "warn"), checkProcesses())
	if o.url != "" {
		list = append(list, checkCoordinator(ctx, o.url, o.pin))
	}
	return list
}

func hostLine() string {
	s := runtime.GOOS + "/" + runtime.GOARCH + ", " + fmt.Sprint(runtime.NumCPU()) + " cores"
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		s += ", kernel " + strings.TrimSpace(string(b))
	}
	return s
}

func checkUser() finding {
	if os.Geteuid() == 0 {
		return finding{Check: "user", State: "ok", Text: "root: views are mounts, jobs see their workspace at one path on every host and run as another user"}
	}
	return finding{
		Check: "user", State: "warn", Text: fmt.Sprintf("uid %d: views are copies, the path of a job's workspace differs from slot to slot, owners are not kept", os.Geteuid()),
		Fix: "start the agent as root: attaching becomes a mount of some milliseconds, whatever the size",
	}
}

// existing is dir or its nearest parent that is there.
func existing(dir string) string {
	for {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}

// checkWritable tries whether the store could be made.
func checkWritable(dir string) finding {
	at := existing(dir)
	tmp, err := os.MkdirTemp(at, ".roost-doctor-")
	if err != nil {
		why := err
		var pe *fs.PathError
		if errors.As(err, &pe) {
			why = pe.Err
		}
		return finding{Check: "store", State: "bad", Text: fmt.Sprintf("%s can't be made: nothing can be written in %s: %v", dir, at, why), Fix: "choose another directory: --store-dir here, --state of run and up"}
	}
	os.Remove(tmp) //nolint:errcheck // it is empty
	return finding{Check: "store", State: "ok", Text: dir + " can be written"}
}

func checkDisk(dir string) finding {
	free, total, err := diskSpace(dir)
	if err != nil {
		return finding{Check: "disk", State: "warn", Text: "free space of " + dir + " is not known: " + err.Error()}
	}
	f := finding{Check: "disk", State: "ok", Text: fmt.Sprintf("%s of %s free at %s", humanize.IBytes(uint64(free)), humanize.IBytes(uint64(total)), dir)}
	if free < 2<<30 {
		f.State, f.Fix = "warn", "workspaces are kept as long as there is room; give the store more"
	}
	return f
}

func checkTool(ctx context.Context, name, why, missing string) finding {
	path, err := osexec.LookPath(name)
	if err != nil {
		return finding{Check: "tool", State: missing, Text: name + " is not in PATH; " + why, Fix: "install " + name}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := osexec.CommandContext(ctx, path, "--version").Output() //nolint:errcheck // the version is decoration
	first, _, _ := strings.Cut(string(out), "\n")
	return finding{Check: "tool", State: "ok", Text: strings.TrimSpace(path + " " + first)}
}

// checkProcesses tells how leftovers of a job are found and killed.
func checkProcesses() finding {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			continue
		}
		if os.Geteuid() == 0 {
			return finding{Check: "processes", State: "ok", Text: "cgroup v2 at " + dir + ": a job's processes end together"}
		}
		return finding{Check: "processes", State: "ok", Text: "a subreaper ends a job's processes (cgroup v2 needs root)"}
	}
	return finding{Check: "processes", State: "ok", Text: "no cgroup v2; a job's processes are found by their ancestors"}
}

func checkCoordinator(ctx context.Context, url, pin string) finding {
	c, err := api.NewClient(url, "", coordinatorHTTP(pin))
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err = c.Health(ctx)
	}
	if err != nil {
		return finding{Check: "coordinator", State: "bad", Text: url + ": " + err.Error(), Fix: reachHint(err)}
	}
	return finding{Check: "coordinator", State: "ok", Text: url + " answers"}
}
