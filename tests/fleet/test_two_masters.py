"""Two masters on one database: what one has learnt meanwhile, the other must not undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.fleet.watcher import Watcher
from orchestrator.model.tables import Node
from providers.fake import FakeCloud

if TYPE_CHECKING:
    from conftest import Fleet, Store


def test_a_listing_from_before_the_machine_was_seen_does_not_call_it_gone(
    fleet: Fleet, store: Store, cloud: FakeCloud, ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by seed 7 of the simulation: a slow answer, overtaken by another master's look."""
    cloud.lag_s = 30
    ask(1)
    fleet.plan()
    fleet.launch()
    store.clock.move(1)
    provider = fleet.clouds.get("toy")
    listing = provider.instances

    def slow() -> Any:
        shown = listing()
        monkeypatch.setattr(provider, "instances", listing)
        store.clock.move(40)
        fleet.watch()  # the other master sees the machine
        return shown

    monkeypatch.setattr(provider, "instances", slow)
    late = Watcher(
        store.writer,
        fleet.clouds,  # type: ignore[arg-type]
        store.clock,
        installation=fleet.installation,
        visibility_s=60.0,
        orphan_grace_s=60.0,
    )
    late.step()
    [node] = store.rows(Node)
    assert node.seen_at is not None
    assert node.state == "booting"
    cloud.forget(node.instance_id)
    store.clock.move(60)
    late.step()
    assert store.state(Node, node.id) == "terminating", "the next look judges again"
