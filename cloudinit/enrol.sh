#!/bin/sh
# A machine that exists already joins a pool: its settings (agent.json, base64) come on standard input. The master serves
# this with bootstrap.sh after it. Nothing here or in its agent powers the machine off: at the end the agent removes itself.
# ORCHESTRATOR_ROOT puts every path under a prefix: an ordinary user joins that way, with a folder of its own.
set -eu
root=${ORCHESTRATOR_ROOT:-}
name=elastic-orchestrator-agent
unit=/etc/systemd/system/$name.service
pid=$root/run/$name.pid

refuse() { echo "elastic-orchestrator: $*" >&2; exit 1; }

[ -n "$root" ] || [ "$(id -u)" = 0 ] || refuse "run it as root, or with ORCHESTRATOR_ROOT=/a/folder/of/yours"
if [ -z "$root" ] && [ -f $unit ]; then
  refuse "an agent is here already ($unit); end its node first: orchestrator node terminate NODE"
fi
if [ -f "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; then
  refuse "an agent is here already (process $(cat "$pid")); end its node first: orchestrator node terminate NODE"
fi

rm -rf "$root/var/lib/elastic-orchestrator"  # of an agent that did not get to remove itself
mkdir -p "$root/etc/elastic-orchestrator" "$root/opt/elastic-orchestrator"
(umask 077 && base64 -d > "$root/etc/elastic-orchestrator/agent.json")
