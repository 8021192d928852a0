// Package configs holds what people may write in Roost's configuration file: the
// types, their defaults, their validation and a commented example that is also
// the tests' input. Only cmd/roost imports it and translates it into the Options
// of the packages below, none of which knows of TOML.
package configs

// Config is the whole file. The doc tags are the reference (roost config
// reference) and the comments of the example file; there is no other copy.
type Config struct {
	Coordinator Coordinator `mapstructure:"coordinator" doc:"The coordinator: knows which host holds which workspace, places jobs, keeps logs."`
	Agent       Agent       `mapstructure:"agent" doc:"The agent: keeps workspaces on a runner host and runs jobs in views of them."`
	Store       Store       `mapstructure:"store" doc:"The agent's store: how much of the disk it may have, and how it looks after what it keeps."`
	GitLab      GitLab      `mapstructure:"gitlab" doc:"The GitLab runners of the agent's host. Written by roost install gitlab; with it the agent takes jobs from GitLab and none of roost run."`
}

// Coordinator configures roost coordinator.
type Coordinator struct {
	Listen     string `mapstructure:"listen" default:"127.0.0.1:7780" doc:"Address to listen on. Beyond loopback it is TLS, always: with the certificate below, or with one of its own in STATE_DIR/tls that is made at the first start."`
	URL        string `mapstructure:"url" default:"" doc:"URL that other hosts reach it by, for the line of roost coordinator join. Empty: the machine's host name and the port of listen."`
	TLSCert    string `mapstructure:"tls_cert_file" default:"" doc:"Certificate (PEM, with its chain) to serve with. Empty: the coordinator's own, which agents know by its pin."`
	TLSKey     string `mapstructure:"tls_key_file" default:"" doc:"Private key of tls_cert_file. Must be readable by its owner alone."`
	StateDir   string `mapstructure:"state_dir" default:"/var/lib/roost/coordinator" doc:"Directory of its database, logs, blobs and tokens. Owned by one process."`
	HostTokens string `mapstructure:"host_tokens" default:"allowed" doc:"allowed: agents come with the token that they share, STATE_DIR/agent.token, or with one of their host's own, made by roost coordinator join --host. required: with one of their own only, so that a stolen one is worth one host."`
	HostLease  string `mapstructure:"host_lease" default:"30s" doc:"How long a silent host keeps its jobs. Duration, 5s to 10m."`
	InfraTries int    `mapstructure:"infra_retries" default:"3" doc:"How often a job is tried again when its host, not its script, failed. 0 to 10."`
	LogLevel   string `mapstructure:"log_level" default:"info" reload:"yes" doc:"trace, debug, info, warn or error."`

	GitLabURLs   []string `mapstructure:"gitlab_urls" default:"" doc:"GitLab instances that jobs may be fetched from, such as https://gitlab.example.org. Hosts bring tokens; nothing is asked of an instance that is not in this list."`
	GitLabCAFile string   `mapstructure:"gitlab_ca_file" default:"" doc:"Certificates (PEM) to trust for them besides the system's."`

	ScrubInterval string `mapstructure:"scrub_interval" default:"168h" reload:"yes" doc:"How often every blob is read and compared with its digest; hosts that still have a damaged one upload it again. Duration, at least 1h; 0s: never."`
	ScrubRate     string `mapstructure:"scrub_rate" default:"20MiB" reload:"yes" doc:"Most bytes per second that are read for that. 0: no limit."`
}

// Agent configures roost agent.
type Agent struct {
	Name        string   `mapstructure:"name" default:"" doc:"Name of this host, unique among the coordinator's hosts. Empty: the machine's host name."`
	Coordinator string   `mapstructure:"coordinator" default:"http://127.0.0.1:7780" doc:"URL of the coordinator. http only on this machine."`
	Pin         string   `mapstructure:"coordinator_pin" default:"" doc:"SHA-256 of the public key in the coordinator's certificate, as roost coordinator join prints it. Empty: the certificate must be one that this machine trusts."`
	TokenFile   string   `mapstructure:"token_file" default:"/var/lib/roost/coordinator/agent.token" doc:"File with the agent's token. Must be readable by its owner alone."`
	Slots       int      `mapstructure:"slots" default:"0" doc:"How many jobs run at once. 0: one per two cores, at least one; with [gitlab] one per line of its slot_tokens_file. At most 256."`
	Tags        []string `mapstructure:"tags" default:"" doc:"Tags that jobs may ask for. The host's name is always one of them."`
	StoreDir    string   `mapstructure:"store_dir" default:"/var/lib/roost/store" doc:"Directory of the workspaces. Owned by one process; keep it on the fastest disk."`
	BuildsDir   string   `mapstructure:"builds_dir" default:"/run/roost/builds" doc:"Where jobs see their workspace: one path per project, the same on every host. Needs root; without it the path is per slot."`
	RunAs       string   `mapstructure:"run_as" default:"" doc:"User that jobs run as. Empty: who called sudo, else nobody. Without root: who started the agent."`
	UploadRate  string   `mapstructure:"upload_rate" default:"0" reload:"yes" doc:"Most bytes per second for background uploads, such as 100MiB. 0: no limit."`
	LogLevel    string   `mapstructure:"log_level" default:"info" reload:"yes" doc:"trace, debug, info, warn or error."`
}

// Store configures how roost agent keeps house in its store_dir.
type Store struct {
	Driver        string `mapstructure:"driver" default:"auto" doc:"How views are made: erofs, overlay, reflink or copy; auto takes the first of them that works here, roost doctor shows which and why. containers-storage only by name."`
	Backing       string `mapstructure:"backing" default:"none" doc:"xfs-loop: agent.store_dir becomes an XFS in the file STORE_DIR.xfs, made once, so that the first write to a large file clones it instead of copying it. For hosts on ext4; needs root, xfsprogs and an empty store_dir. none: the directory as it is."`
	BackingSize   string `mapstructure:"backing_size" default:"0" doc:"Size of that file, such as 200GiB; at least 320MiB. 0: half of what is free when it is made. It is grown at the agent's start and never shrunk."`
	BackingSpace  string `mapstructure:"backing_space" default:"reserved" doc:"reserved: the file takes up all its room at once. sparse: only what is used; a full disk below it then ends jobs with I/O errors."`
	MaxBytes      string `mapstructure:"max_bytes" default:"0" reload:"yes" doc:"The most that the layers kept may take, such as 200GiB. 0: all of the file system."`
	HighWater     int    `mapstructure:"high_water" default:"90" reload:"yes" doc:"Percent in use, of max_bytes or of the file system (bytes and inodes), above which layers are evicted that the blob store has, the longest unused first. 10 to 100."`
	LowWater      int    `mapstructure:"low_water" default:"80" reload:"yes" doc:"Percent in use at which that ends. 1 to high_water - 1."`
	MinFree       string `mapstructure:"min_free" default:"1GiB" reload:"yes" doc:"No jobs are taken while less than this is free, or less than a twentieth of a small file system: the smaller counts."`
	ScrubInterval string `mapstructure:"scrub_interval" default:"168h" reload:"yes" doc:"How often the agent reads all that it keeps, compares it with its digests and repairs what is damaged. Duration, at least 1h; 0s: never."`
	ScrubRate     string `mapstructure:"scrub_rate" default:"20MiB" reload:"yes" doc:"Most bytes per second that are read for that. 0: no limit."`
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

// Levels are the words of log_level.
var Levels = []string{"trace", "debug", "info", "warn", "error"}
