"""A provider of one's own, in full: Acorn is a cloud that does not exist, with a small API over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import httpx

from providers import base
from providers.base import Cause, Finding, Instance, InstanceState, LaunchRequest, Verdict

KINDS = {  # Acorn's codes, by what the caller does next
    "no_room": base.NoCapacity,
    "over_quota": base.QuotaExceeded,
    "bad_key": base.Unauthorised,
    "expired_key": base.Unauthorised,
    "other_launch": base.OutcomeUnknown,
}
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
CATALOGUE = {"images": "images", "sizes": "sizes", "locations": "sites"}


class AcornProvider:
    """One account of Acorn. Its options are those of `[clouds.NAME]` in the master's settings, by name and type."""

    user_data_limit = 16_384
    rents = True

    def __init__(self, *, installation: str, url: str, key: str, timeout_s: float = 20) -> None:
        self._installation = installation
        self.endpoint = url
        self._http = httpx.Client(base_url=url, headers={"X-Key": key}, timeout=timeout_s, trust_env=False)

    def validate(self, template: Mapping[str, object]) -> None:
        for key, value in template.items():
            if key != "site" or not isinstance(value, str):
                raise base.Misconfigured(f"{key} = {value!r} is no setting of an Acorn pool; there is `site`, a text")

    def check(self) -> None:
        self._call("show the account", "GET", "/account")

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        wanted = {"image": ("images", image), "type": ("sizes", instance_type), "site": ("locations", template.get("site"))}
        return [
            Finding(subject, Verdict.OK, f"{name} is there")
            if name in {item.id for item in self.catalogue(kind)}
            else Finding(subject, Verdict.WRONG, f"Acorn has no {subject} {name!r}; choose one of its {kind}")
            for subject, (kind, name) in wanted.items()
            if name is not None
        ]

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """Acorn keeps launch ids itself: putting the same launch again gives the same machines."""
        if (size := len(request.user_data)) > self.user_data_limit:
            raise base.Misconfigured(f"the user data have {size} bytes, Acorn takes {self.user_data_limit}")
        ours = {base.TAG_INSTALLATION: self._installation, base.TAG_LAUNCH: request.launch_id}
        asked = {
            "count": request.count,
            "image": request.image,
            "size": request.instance_type,
            "user_data": base64.b64encode(request.user_data).decode(),
            "tags": {**request.tags, **ours},
            **request.template,
        }
        told = self._call("launch", "PUT", f"/launches/{request.launch_id}", launching=True, json=asked)
        return [_instance(seen) for seen in told["machines"]]

    def instances(self) -> list[Instance]:
        return [_instance(seen) for seen in self._machines()]

    def terminate(self, ids: Iterable[str]) -> None:
        if named := list(ids):  # Acorn passes over ids that it does not know
            self._call("end machines", "POST", "/end", json=named)

    def impaired(self) -> Mapping[str, str]:
        return {seen["id"]: seen["impaired"] for seen in self._machines() if seen.get("impaired")}

    def console(self, instance_id: str) -> str:
        return str(self._call("show a console", "GET", f"/machines/{instance_id}/console").get("text", ""))

    def catalogue(self, kind: str) -> list[base.CatalogueItem]:
        if kind not in CATALOGUE:
            raise base.Misconfigured(f"there is no catalogue of {kind!r}; ask for {', '.join(CATALOGUE)}")
        told = self._call(f"list {kind}", "GET", f"/{CATALOGUE[kind]}")
        return [base.CatalogueItem(name, name) for name in told["items"]]

    def _machines(self) -> list[dict[str, Any]]:
        """All pages. A filter may be ignored, so what is ours is looked at again here."""
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            asked = {"tag": f"{base.TAG_INSTALLATION}={self._installation}", "after": after}
            page = self._call("list machines", "GET", "/machines", params=asked)
            found += page["machines"]
            after = page["next"]
        return [seen for seen in found if seen["tags"].get(base.TAG_INSTALLATION) == self._installation]

    def _call(self, doing: str, method: str, path: str, *, launching: bool = False, **more: Any) -> Any:
        """One call. What may have happened without our hearing of it matters only for a launch: all else is asked again."""
        unheard = base.OutcomeUnknown if launching else base.Unavailable
        try:
            answer = self._http.request(method, path, **more)
        except NEVER_SENT as error:
            raise base.Unavailable(f"Acorn could not {doing}: {error!r}; it is tried again") from error
        except httpx.TransportError as error:
            raise unheard(f"Acorn did not answer when asked to {doing}: {error!r}") from error
        if answer.is_success:
            return answer.json()
        code = answer.json().get("code", "")
        told = f"Acorn did not {doing}: {code} ({answer.status_code})"
        if code == "slow_down":
            raise base.RateLimited(told, float(answer.headers["Retry-After"]))
        kind = KINDS.get(code, base.Misconfigured if answer.status_code < 500 else unheard)
        raise kind(f"{told}; check the key, Acorn's credentials" if kind is base.Unauthorised else told)


def _instance(seen: Mapping[str, Any]) -> Instance:
    return Instance(
        id=seen["id"],
        state=InstanceState(seen["state"]),
        tags=seen["tags"],
        address=seen["address"],
        launched_at=datetime.fromisoformat(seen["launched_at"]),
        fault=seen.get("fault"),
        launch_index=seen["index"],
        cause=Cause.RECLAIMED if seen.get("reclaimed") else None,
    )
