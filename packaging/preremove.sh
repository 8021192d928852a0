#!/bin/sh
# A host whose runner gets its jobs through Roost would be left without any.
set -e
case "$1" in
  remove | 0)
    if [ -e /var/lib/roost/install.json ]; then
      echo "roost: this host's GitLab runner goes through Roost; first: roost uninstall gitlab" >&2
      exit 1
    fi
    if [ -d /run/systemd/system ]; then
      systemctl disable --now roost-agent.service roost-coordinator.service >/dev/null 2>&1 || true
    fi
    ;;
esac
