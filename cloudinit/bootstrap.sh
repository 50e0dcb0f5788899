#!/bin/sh
# First boot: get the agent, verify it, keep it running. Running this again is harmless.
# ORCHESTRATOR_ROOT puts every path under a prefix: the local cloud boots machines that way, as an ordinary user.
set -eu
root=${ORCHESTRATOR_ROOT:-}
agent=$root/opt/elastic-orchestrator/agent.pyz
config=$root/etc/elastic-orchestrator/agent.json
name=elastic-orchestrator-agent

say() { echo "elastic-orchestrator: $*"; }

# "power-off": a rented machine that cannot get its agent must not bill on. Others stay up.
at_failure=${1:-}
finish() {
  [ $? -ne 0 ] || return 0
  if [ "$at_failure" = power-off ]; then
    say "no agent on this machine; powering off"
    "$root/sbin/poweroff"
  else
    say "no agent on this machine"
    rm -f "$config" "$agent"
  fi
}
trap finish EXIT

python=$(command -v python3) || { say "there is no python3: use an image that has Python 3.8 or newer"; exit 1; }

"$python" -E -s - "$config" "$agent" "$root/var/lib/cloud/data/instance-id" <<'PYTHON'
import sys
PREFIX = "elastic-orchestrator: "
if sys.version_info < (3, 8):
    sys.exit(PREFIX + "python3 is %d.%d: use an image that has Python 3.8 or newer" % sys.version_info[:2])

import hashlib, http.client, json, os, random, signal, ssl, threading, time, urllib.parse

config_path, agent_path, instance_path = sys.argv[1:]
with open(config_path) as file:
    config = json.load(file)

def sha256(data):
    return hashlib.sha256(data).hexdigest()

def connect(url):
    if url.scheme != "https":
        return http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    pin = config["ca_pin"]
    context = ssl.create_default_context() if not pin else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if pin:  # the pin says more than any authority could
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=10, context=context)
    connection.connect()
    seen = sha256(connection.sock.getpeercert(binary_form=True))
    if pin and seen != pin:
        raise ValueError("refused: the master's certificate has SHA-256 %s, expected was the pin %s" % (seen, pin))
    return connection

def url_of(name):
    return urllib.parse.urlsplit(config["master_url"].rstrip("/") + "/agent/v1/" + name)

def instance_id():
    try:
        with open(instance_path) as file:
            return file.read().strip()
    except OSError:
        return ""

def tell(phase):  # for those who watch the boot; whether it comes through matters to nothing here
    try:
        url = url_of("boot")
        told = {"secret": config["enrolment_secret"], "instance_id": instance_id(), "phase": phase}
        connection = connect(url)
        connection.request("POST", url.path, json.dumps(told), {"Content-Type": "application/json"})
        connection.getresponse().read()
    except Exception:
        pass

threading.Thread(target=tell, args=("cloud-init began",), daemon=True).start()

def download():
    url = url_of("agent.pyz")
    connection = connect(url)
    who = {"Authorization": "Bearer " + config["enrolment_secret"], "X-Instance-Id": instance_id()}
    connection.request("GET", url.path, headers=who)
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise ValueError("%s answered %d %s" % (url.geturl(), response.status, response.reason))
    if sha256(data) != config["agent_sha256"]:
        raise ValueError("refused: agent.pyz has SHA-256 %s, expected was %s: do all masters run one version?"
                         % (sha256(data), config["agent_sha256"]))
    with open(agent_path + ".new", "wb") as file:
        file.write(data)
    os.replace(agent_path + ".new", agent_path)

def present():
    if not os.path.exists(agent_path):
        return False
    with open(agent_path, "rb") as file:
        return config["agent"] == "preinstalled" or sha256(file.read()) == config["agent_sha256"]

if config["agent"] == "preinstalled" and not present():
    sys.exit(PREFIX + "%s is not in this image: build it in, or let machines download the agent" % agent_path)

signal.alarm(config["boot_timeout_s"])  # ends this program even inside a name look-up that hangs
pause_s = 1.0
while not present():
    try:
        download()
    except Exception as error:
        wait_s = pause_s * random.uniform(0.5, 1.5)  # machines booted together must not come back together
        print("%scannot get the agent from %s: %s; next try in %.1f s" % (PREFIX, config["master_url"], error, wait_s),
              flush=True)
        time.sleep(wait_s)
        pause_s = min(pause_s * 2, 30)
PYTHON

set -- "$python" -E -s "$agent" --config "$config" --root "$root"

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
  # KillMode and OOMPolicy: jobs outlive an agent's restart, and a job out of memory does not take the agent along.
  cat > /etc/systemd/system/$name.service <<UNIT
[Unit]
Description=Elastic Orchestrator agent
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=$python -E -s $agent --config $config --root ""
Restart=always
RestartSec=1
RestartPreventExitStatus=0
KillMode=process
OOMPolicy=continue
TasksMax=infinity
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
UNIT
  systemctl enable --now $name.service
  exit 0
fi

mkdir -p "$root/run" "$root/var/log"
pid=$root/run/$name.pid
if [ -f "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; then exit 0; fi
# The agent ends with 0 only when the machine is to end.
setsid sh -c 'until "$@"; do sleep 1; done' $name "$@" </dev/null >>"$root/var/log/$name.log" 2>&1 &
echo $! > "$pid"
