"""An agent that only calls home: it enrols, starts one long job, and ends well when it is told to."""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

JOB = ["sleep", "4242"]

config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
instance_id = Path("/var/lib/cloud/data/instance-id").read_text().strip()

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if subprocess.run(["pgrep", "-f", " ".join(JOB)], stdout=subprocess.DEVNULL).returncode:
    subprocess.Popen(JOB)

call = {"secret": config["enrolment_secret"], "instance_id": instance_id, "arguments": sys.argv}
home = urllib.parse.urlsplit(config["master_url"])
connection = http.client.HTTPConnection(home.hostname, home.port, timeout=10)
connection.request("POST", "/agent/v1/enrol", json.dumps(call), {"Content-Type": "application/json"})
print("enrolled:", connection.getresponse().status, flush=True)
while True:
    time.sleep(3600)
