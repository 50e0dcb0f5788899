"""A real OpenStack for the tests: Keystone, Glance, Neutron, Placement and Nova from their packages, on loopback.

Each service is a process with its databases in SQLite files of a temporary folder; Nova computes with its own fake
hypervisor. All end with the process that started them.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

SERVICES = Path(__file__).parent / "services"
REGION = "here"
PATHS = {"keystone": "/v3", "glance": "", "neutron": "", "placement": "", "nova": "/v2.1"}
TYPES = {"glance": "image", "neutron": "network", "placement": "placement", "nova": "compute"}


@dataclass
class ControlPlane:
    env: Path  # the virtual environment with the services in it
    folder: Path
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    ports: dict[str, int] = field(default_factory=lambda: {service: _free_port() for service in PATHS})
    token: str = ""

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    # -- starting --

    def configure(self) -> None:
        for name in ("etc", "db", "images", "staging", "tasks", "state", "log"):
            (self.folder / name).mkdir()
        for name, text in self._configurations().items():
            (self.folder / "etc" / f"{name}.conf").write_text(text)
        shutil.copy(self.env / "etc/nova/api-paste.ini", self.folder / "etc/api-paste.ini")

    def _configurations(self) -> dict[str, str]:
        def common(name: str) -> str:
            return f"[DEFAULT]\nlog_file = {self.folder}/log/{name}.log\nuse_stderr = false\ntransport_url = fake:///\n"

        def database(name: str, section: str = "database") -> str:
            return f"[{section}]\nconnection = {self._database(name)}\nsqlite_synchronous = false\n"

        def account(section: str) -> str:
            who = {"username": "admin", "password": self.password, "project_name": "admin", "region_name": REGION}
            who |= {"user_domain_name": "Default", "project_domain_name": "Default"}
            who |= {"auth_type": "password", "auth_url": f"{self.url('keystone')}/v3"}
            return f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in who.items())

        def asked(type_: str) -> str:
            """Who checks tokens, and for which service: without it no access rule of a credential is ever met."""
            return f"{account('keystone_authtoken')}service_type = {type_}\n"

        etc = self.folder / "etc"
        return {
            "keystone": f"""{common("keystone")}{database("keystone")}
[fernet_tokens]
key_repository = {etc}/fernet
[credential]
key_repository = {etc}/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = oslo_cache.dict
""",
            "glance-api": f"""{common("glance")}enabled_backends = files:file
{database("glance")}{asked("image")}
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {self.folder}/images
[os_glance_staging_store]
filesystem_store_datadir = {self.folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {self.folder}/tasks
[paste_deploy]
flavor = keystone
config_file = {self.env}/etc/glance/glance-api-paste.ini
""",
            "neutron": f"""{common("neutron")}core_plugin = ml2
service_plugins =
api_paste_config = {self.env}/etc/neutron/api-paste.ini
state_path = {self.folder}/state
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
dhcp_agent_notification = false
{database("neutron")}{asked("network")}
[ml2]
type_drivers = local
tenant_network_types = local
mechanism_drivers = everywhere
extension_drivers = port_security
[quotas]
quota_port = -1
[oslo_concurrency]
lock_path = {self.folder}/state
""",
            "placement": f"{common('placement')}{database('placement', 'placement_database')}{asked('placement')}",
            "nova": f"""{common("nova")}host = node
my_ip = 127.0.0.1
compute_driver = lab.Hypervisor
state_path = {self.folder}/state
instances_path = {self.folder}/state
[wsgi]
api_paste_config = {etc}/api-paste.ini
[oslo_concurrency]
lock_path = {self.folder}/state
[key_manager]
backend = nova.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = {"0" * 64}
[filter_scheduler]
enabled_filters = ComputeFilter,ServerGroupAntiAffinityFilter
{database("nova_api", "api_database")}{database("nova")}{asked("compute")}
{account("neutron")}{account("placement")}{account("service_user")}send_service_user_token = true
{account("glance")}endpoint_override = {self.url("glance")}
""",
        }

    def _database(self, name: str) -> str:
        return f"sqlite:///{self.folder}/db/{name}.sqlite?timeout=60"

    def migrate(self) -> None:
        """Every service's tables, two at a time."""
        for folder in ("fernet", "credential"):  # as `keystone-manage fernet_setup` does: one key to come, one in use
            keys = self.folder / "etc" / folder
            keys.mkdir(mode=0o700)
            for number in ("0", "1"):
                (keys / number).write_bytes(base64.urlsafe_b64encode(secrets.token_bytes(32)))
        keystone = ["keystone-manage", "--config-file", "keystone.conf"]
        at = [f"--bootstrap-{kind}-url={self.url('keystone')}/v3" for kind in ("public", "internal", "admin")]
        chains = [
            [["python", str(SERVICES / "migrate.py"), "nova"]],
            [
                [*keystone, "db_sync"],
                [*keystone, "bootstrap", "--bootstrap-password", self.password, "--bootstrap-region-id", REGION, *at],
            ],
            [["glance-manage", "--config-file", "glance-api.conf", "db_sync"]],
            [["placement-manage", "--config-file", "placement.conf", "db", "sync"]],
            [["python", str(SERVICES / "migrate.py"), "neutron"]],
        ]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda chain: [self._run(command) for command in chain], chains))
        databases = self.folder / "db"
        shutil.copy(databases / "nova.sqlite", databases / "cell0.sqlite")
        for database in databases.iterdir():
            with sqlite3.connect(database) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # readers then go on while it is written to

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            [self.env / "bin" / command[0], *command[1:]],
            cwd=self.folder / "etc",
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:5])} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.env}/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(SERVICES),
            "PYTHONWARNINGS": "ignore",
            "ETC": str(self.folder / "etc"),
            "NEUTRON_DATABASE": self._database("neutron"),
            "CELL0_DATABASE": self._database("cell0"),
            "CELL1_DATABASE": self._database("nova"),
        }

    @contextmanager
    def service(self, name: str) -> Iterator[None]:
        """This service, until the block ends. It dies with this process, however that ends."""
        with (self.folder / "log" / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    self.env / "bin/python",
                    SERVICES / "serve.py",
                    name,
                    str(self.ports[name]),
                ],
                env=self._environment(),
                stdout=out,
                stderr=out,
            )
            try:
                yield
            finally:
                process.kill()
                process.wait()

    def wait_for(self, name: str, within_s: float = 120) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url(name)}{PATHS[name]}/", timeout=5).status_code < 500:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        told = (self.folder / "log" / f"{name}.out").read_text()[-3000:]
        raise RuntimeError(f"{name} did not answer in {within_s:g} s: {told}")

    # -- furnishing --

    def call(self, service: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """As the administrator."""
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": "compute latest", **headers}
        content = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        reply = httpx.request(method, f"{self.url(service)}{path}", content=content, headers=headers, timeout=60)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        self.token = self.token or reply.headers.get("X-Subject-Token", "")
        return reply.json() if reply.content else {}

    def sign_in(self) -> None:
        self.call("keystone", "POST", "/v3/auth/tokens", {"auth": _password("admin", self.password, "admin")})

    def publish(self) -> None:
        """The catalogue; and the role by which the services' calls to each other are told from a user's."""
        role = self.call("keystone", "GET", "/v3/roles?name=service")["roles"][0]["id"]
        admin = self.call("keystone", "GET", "/v3/users?name=admin")["users"][0]["id"]
        self.call("keystone", "PUT", f"/v3/projects/{self.project_id('admin')}/users/{admin}/roles/{role}")
        for service, type_ in TYPES.items():
            made = self.call("keystone", "POST", "/v3/services", {"service": {"type": type_, "name": service}})
            for interface in ("public", "internal"):
                endpoint = {"service_id": made["service"]["id"], "interface": interface, "region_id": REGION}
                endpoint |= {"url": self.url(service) + PATHS[service]}
                self.call("keystone", "POST", "/v3/endpoints", {"endpoint": endpoint})

    def furnish(self) -> None:
        """What a pool names: flavors, an image, networks."""
        for name, vcpus, ram, disk in (("m1.tiny", 1, 256, 1), ("m1.small", 1, 2048, 20)):
            flavor = {"name": name, "vcpus": vcpus, "ram": ram, "disk": disk}
            self.call("nova", "POST", "/v2.1/flavors", {"flavor": flavor})
        image = {"name": "debian-12", "min_disk": 3, "min_ram": 512, "visibility": "public"}
        image |= {"disk_format": "raw", "container_format": "bare"}
        id_ = self.call("glance", "POST", "/v2/images", image)["id"]
        self.call("glance", "PUT", f"/v2/images/{id_}/file", bytes(1024), **{"Content-Type": "application/octet-stream"})
        for name in ("private", "bare"):
            network = {"network": {"name": name, "shared": True}}
            id_ = self.call("neutron", "POST", "/v2.0/networks", network)["network"]["id"]
            if name == "private":
                subnet = {"network_id": id_, "ip_version": 4, "cidr": "10.20.0.0/16", "name": name}
                self.call("neutron", "POST", "/v2.0/subnets", {"subnet": subnet})

    def member(self, name: str, access_rules: list[dict[str, str]]) -> dict[str, str]:
        """A project with one user, and an application credential of that user with the role `member`; its `auth`."""
        roles = {role["name"]: role["id"] for role in self.call("keystone", "GET", "/v3/roles")["roles"]}
        project = {"project": {"name": name, "domain_id": "default"}}
        project_id = self.call("keystone", "POST", "/v3/projects", project)["project"]["id"]
        user = {"user": {"name": name, "password": self.password, "domain_id": "default"}}
        user_id = self.call("keystone", "POST", "/v3/users", user)["user"]["id"]
        self.call("keystone", "PUT", f"/v3/projects/{project_id}/users/{user_id}/roles/{roles['member']}")
        signed_in = httpx.post(
            f"{self.url('keystone')}/v3/auth/tokens", json={"auth": _password(name, self.password, name)}, timeout=60
        )
        credential = {"name": "orchestrator", "roles": [{"name": "member"}], "access_rules": access_rules}
        path = f"/v3/users/{user_id}/application_credentials"
        token = {"X-Auth-Token": signed_in.headers["X-Subject-Token"]}
        made = self.call("keystone", "POST", path, {"application_credential": credential}, **token)[
            "application_credential"
        ]
        return {
            "auth_url": f"{self.url('keystone')}/v3",
            "application_credential_id": made["id"],
            "application_credential_secret": made["secret"],
        }

    def project_id(self, name: str) -> str:
        return str(self.call("keystone", "GET", f"/v3/projects?name={name}")["projects"][0]["id"])


@contextmanager
def control_plane(env: Path, folder: Path) -> Iterator[ControlPlane]:
    """The whole of it, furnished; a minute on two cores."""
    plane = ControlPlane(env, folder)
    plane.configure()
    plane.migrate()
    with ExitStack() as running:
        for name in ("keystone", "glance", "neutron", "placement"):
            running.enter_context(plane.service(name))
        plane.wait_for("keystone")
        plane.sign_in()
        plane.publish()
        running.enter_context(plane.service("nova"))  # its compute looks for the others at once
        for name in TYPES:
            plane.wait_for(name)
        plane.furnish()
        yield plane


def _password(user: str, password: str, project: str) -> dict[str, Any]:
    domain = {"id": "default"}
    who = {"user": {"name": user, "password": password, "domain": domain}}
    return {
        "identity": {"methods": ["password"], "password": who},
        "scope": {"project": {"name": project, "domain": domain}},
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
