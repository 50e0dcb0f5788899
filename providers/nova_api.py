"""The calls to an OpenStack cloud, below what they mean.

openstacksdk reads clouds.yaml, holds the credentials, gets and renews the token, finds the endpoints. The calls
themselves go through its session as plain requests: each stands where it is made, with its micro-version, its time-out
and without any retry. A POST that the SDK repeats makes more servers, and a `connect_retries` of clouds.yaml would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote

from .base import Misconfigured, Unavailable

OLDEST, NEWEST = (2, 51), (2, 104)  # micro-versions of Nova that the tests run at

Json = dict[str, Any]


class NovaApi:
    """Compute, image and network of one project in one region. Thread-safe; makes no call before the first one.

    `cloud` names an entry of clouds.yaml; None takes what the SDK takes by itself (OS_CLOUD, or the OS_… variables).
    """

    def __init__(self, cloud: str | None, region: str | None, timeout_s: float) -> None:
        from keystoneauth1.adapter import Adapter
        from openstack.config import OpenStackConfig

        config = OpenStackConfig(app_name="elastic-orchestrator")
        self.config = config.get_one(cloud=cloud, region_name=region, api_timeout=timeout_s)
        self.session = self.config.get_session()
        self._services = {
            service: Adapter(
                session=self.session,
                service_type=service,
                interface=self.config.get_interface(service),
                region_name=self.config.get_region_name(service),
                endpoint_override=self.config.get_endpoint(service),
                min_version="2",
                max_version="2.latest",
                connect_retries=0,
                status_code_retries=0,
            )
            for service in ("compute", "image", "network")
        }
        self.auth_url = str(self.config.get_auth_args().get("auth_url") or "")
        self._microversion: tuple[int, int] | None = None

    def get(self, service: str, path: str, **params: Any) -> Json:
        headers = self._headers() if service == "compute" else {}
        return cast(Json, self._services[service].get(path, params=params, headers=headers).json())

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """To compute. {} where the answer is empty."""
        reply = self._services["compute"].post(path, json=body, headers=self._headers())
        return cast(Json, reply.json()) if reply.content else {}

    def delete_server(self, server_id: str) -> None:
        self._services["compute"].delete(server_path(server_id), headers=self._headers())

    def paged(self, service: str, path: str, key: str, **params: Any) -> Iterator[Json]:
        """Every item of every page. No `limit` is sent: the service's own page is the largest, and see `servers`."""
        while True:
            reply = self.get(service, path, **params)
            items = reply[key]
            yield from items
            more = "next" in reply or any(link.get("rel") == "next" for link in reply.get(f"{key}_links", ()))
            if not items or not more:
                return
            params["marker"] = items[-1]["id"]

    def servers(self, **filters: str) -> list[Json]:
        """Every server of the project that the filters let through, or Unavailable.

        From 2.69 a listing without filters and without `limit` shows the servers of a cell that is down, by id alone.
        Older ones, and listings with a filter, pass over them in silence.
        """
        from keystoneauth1.exceptions import BadRequest

        seen: dict[str, Json] = {}
        try:
            for server in self.paged("compute", "/servers/detail", "servers", **filters):
                seen[server["id"]] = server
        except BadRequest as error:
            if not seen:
                raise
            raise Unavailable("a server of one page was gone before the next; the servers are listed again") from error
        if any("metadata" not in server for server in seen.values()):
            raise Unavailable("a cell of this Nova is down and its servers cannot be seen; they are listed again later")
        return list(seen.values())

    def speaks(self, major: int, minor: int) -> bool:
        return self.microversion >= (major, minor)

    @property
    def microversion(self) -> tuple[int, int]:
        """The newest that the cloud and we know, or `compute_default_microversion` of clouds.yaml."""
        if self._microversion is None:
            self._microversion = self._agreed()
        return self._microversion

    def _agreed(self) -> tuple[int, int]:
        from keystoneauth1.discover import normalize_version_number, version_to_string
        from keystoneauth1.exceptions import EndpointNotFound

        data = self._services["compute"].get_endpoint_data()
        if data is None:
            region = self.config.get_region_name("compute")
            raise EndpointNotFound(f"the catalogue has no compute endpoint in region {region!r}")
        newest = (data.max_microversion or (2, 1))[:2]
        wanted = self.config.get_default_microversion("compute")
        agreed = min(newest, normalize_version_number(wanted) if wanted else NEWEST)
        if agreed < OLDEST:
            raise Misconfigured(
                f"this Nova speaks micro-version {version_to_string(agreed)}, {version_to_string(OLDEST)} is needed: "
                "correct compute_default_microversion in clouds.yaml, or use a newer cloud"
            )
        return cast(tuple[int, int], agreed)

    def _headers(self) -> dict[str, str]:
        version = ".".join(map(str, self.microversion))
        return {"OpenStack-API-Version": f"compute {version}"}


def server_path(server_id: str, action: str = "") -> str:
    return f"/servers/{quote(server_id, safe='')}{action}"
