#!/bin/sh
# Tells systemd of the units. Starts nothing: roost install
# gitlab does, when somebody wants it. Services that run already go on with the old program
# until they are restarted.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
fi
