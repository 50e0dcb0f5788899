"""Machines that exist already: nothing is launched or ended here, each joins by a command that a person runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .base import CatalogueItem, Finding, Instance, LaunchRequest, Misconfigured


class StaticProvider:
    """A cloud without a cloud: it has nothing to ask and nothing to show. Its nodes are known by their agents alone."""

    user_data_limit = 0
    rents = False
    endpoint = ""

    def __init__(self, *, installation: str) -> None:
        self._installation = installation

    def validate(self, template: Mapping[str, object]) -> None:
        """Misconfigured for any key: no launch, no template."""
        for key in template:
            raise Misconfigured(f"launch.{key} has no sense where nothing is launched; leave it out")

    def check(self) -> None:
        """There is nothing that could be out of order."""

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:  # noqa: ARG002
        return []

    def launch(self, request: LaunchRequest) -> list[Instance]:  # noqa: ARG002
        raise Misconfigured("these machines exist already; they join by `orchestrator node enrol POOL`")

    def instances(self) -> list[Instance]:
        return []

    def terminate(self, ids: Iterable[str]) -> None:
        """Nothing: the machines stay. Their agents leave when their nodes have ended."""

    def impaired(self) -> Mapping[str, str]:
        return {}

    def console(self, instance_id: str) -> str:  # noqa: ARG002
        return ""

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        if kind not in ("images", "sizes", "locations"):
            raise Misconfigured(f"there is no catalogue of {kind!r}; ask for images, sizes or locations")
        return []
