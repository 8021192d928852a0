#!/bin/sh
# Makes the adapter's user and tells systemd of the units. Starts nothing: roost install
# gitlab does, when somebody wants it. Services that run already go on with the old program
# until they are restarted.
set -e
if ! getent passwd roost >/dev/null; then
  useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin roost
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
