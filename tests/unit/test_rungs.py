"""The ladder: which kinds a pool may launch, and on which of them so many machines are placed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.fleet.rungs import Held, Placement, ladder, place, probed

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
BASE = {"image": "ami-p", "instance_type": "SMALL", "sizes": {"SMALL": "t.s", "LARGE": "t.l"}, "subnet_id": "subnet-a"}


def pool(**launch: Any) -> dict[str, Any]:
    return {"cloud": "aws", "launch": {**BASE, **launch}}


def held(minutes: float, probing: bool = False) -> Held:
    return Held("no_capacity: none left", NOW + timedelta(minutes=minutes), probing)


def test_without_rungs_the_template_is_the_one() -> None:
    (rung,) = ladder(pool())
    assert (rung.cloud, rung.image, rung.instance_type, rung.template) == ("aws", "ami-p", "t.s", {"subnet_id": "subnet-a"})
    assert rung.label == "t.s"
    assert ladder(pool(), None, "DEFAULT") == [rung]


def test_a_demand_names_image_and_type_in_place_of_the_pools() -> None:
    (rung,) = ladder(pool(), "ami-x", "LARGE")
    assert (rung.image, rung.instance_type) == ("ami-x", "t.l")
    (raw,) = ladder(pool(), None, "m6i.metal")
    assert (raw.image, raw.instance_type) == ("ami-p", "m6i.metal")


def test_rungs_lie_over_the_template_in_their_order() -> None:
    rungs = ladder(pool(rungs=[{"market": "spot"}, {"subnet_id": "subnet-b"}, {"instance_type": "m.l", "name": "large"}]))
    assert [rung.template for rung in rungs] == [
        {"subnet_id": "subnet-a", "market": "spot"},
        {"subnet_id": "subnet-b"},
        {"subnet_id": "subnet-a"},
    ]
    assert [rung.label for rung in rungs] == ["t.s, spot", "t.s, subnet-b", "large"]
    assert len({rung.kind for rung in rungs}) == 3


def test_rungs_that_come_out_alike_are_one() -> None:
    types = [{"instance_type": "a"}, {"instance_type": "b"}]
    assert len(ladder(pool(rungs=types))) == 2
    assert len(ladder(pool(rungs=types), None, "c.metal")) == 1


def test_another_cloud_inherits_nothing_of_the_first_ones() -> None:
    nova = {"cloud": "nova", "image": "debian", "instance_type": "m1", "network": "net"}
    here, there = ladder(pool(rungs=[{}, nova]))
    assert (there.cloud, there.image, there.instance_type, there.template) == ("nova", "debian", "m1", {"network": "net"})
    assert here.cloud == "aws"
    assert there.label == "m1, net, in nova"
    # a raw name means nothing there
    assert [rung.cloud for rung in ladder(pool(rungs=[{}, nova]), "ami-x")] == ["aws"]


def test_all_machines_come_from_the_first_rung_that_is_not_held() -> None:
    first, second = ladder(pool(rungs=[{"market": "spot"}, {}]))
    assert place(3, [first, second], {}, NOW) == ([Placement(first, 3)], None)
    assert place(3, [first, second], {first.kind: held(5)}, NOW) == ([Placement(second, 3)], None)


def test_a_hold_that_is_over_is_tried_by_one_machine() -> None:
    first, second = ladder(pool(rungs=[{"market": "spot"}, {}]))
    over = {first.kind: held(-1)}
    placed, why = place(3, [first, second], over, NOW)
    assert placed == [Placement(first, 1, probe=True), Placement(second, 2)]
    assert why is None
    # while it tries, nobody else does
    assert place(3, [first, second], probed(over, placed), NOW) == ([Placement(second, 3)], None)


def test_what_finds_no_rung_waits_with_every_reason() -> None:
    first, second = ladder(pool(rungs=[{"market": "spot"}, {}]))
    placed, why = place(3, [first, second], {first.kind: held(5), second.kind: held(-1)}, NOW)
    assert placed == [Placement(second, 1, probe=True)]
    assert why is not None
    assert "t.s, spot: no_capacity: none left; tried again after 08:05:00 UTC" in why
    assert "t.s: no_capacity: none left; one machine tries it again now" in why
