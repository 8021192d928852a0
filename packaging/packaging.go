// Package packaging has the systemd units, as packages and roost install use them.
package packaging

import _ "embed" // the units are files, so that packages have the same

// The units. Those of daemons name /usr/bin/roost and /etc/roost/config.toml; that of
// runners has @NAMES@ to fill in.
var (
	//go:embed systemd/roost-agent.service
	AgentUnit string
	//go:embed systemd/roost-coordinator.service
	CoordinatorUnit string
	//go:embed systemd/gitlab-runner-roost@.service
	RunnerUnit string
	//go:embed systemd/gitlab-runner-roost.target
	RunnersTarget string
)
