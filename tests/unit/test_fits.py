"""What a task needs against what a machine has: pure."""

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.jobs import spec
from orchestrator.jobs.fits import Has, Needs, Room, lacks, never_in
from orchestrator.jobs.memory import Memory

BIG = Has(slots=4, memory_mb=8192, labels=("gpu", "ssd"))


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        (Needs(), None),
        (Needs(4, 8192, ("gpu",)), None),
        (Needs(5), "only 4 slot(s)"),
        (Needs(memory_mb=8193), "only 8192 MB of memory"),
        (Needs(labels=("gpu", "fpga")), "no label fpga"),
    ],
)
def test_what_a_machine_lacks(needs: Needs, told: str | None) -> None:
    assert lacks(needs, BIG) == told


def test_memory_that_is_not_known_is_not_enough() -> None:
    assert "not said" in str(lacks(Needs(memory_mb=1), Has(1, None)))
    assert lacks(Needs(), Has(1, None)) is None


def test_a_pool_that_can_never_run_a_task_says_how_it_could() -> None:
    pool = {"name": "eu", "labels": None, "slots": 2}
    assert never_in(Needs(2, 10_000), pool) is None  # how much memory comes is not known
    assert "pool change eu --slots 3" in never_in(Needs(3), pool)[1]
    assert "pool change eu --label" in never_in(Needs(labels=("gpu",)), pool)[1]


def test_room_is_taken_until_there_is_none() -> None:
    room = Room(orders=4, slots=4, memory_mb=1000)
    assert room.take(2, 600)
    assert not room.take(1, 500)  # no memory left for it
    assert room.take(2, None)
    assert not room.take(1, None)


def test_plain_tasks_are_held_ahead_and_others_are_not() -> None:
    room = Room(orders=6, slots=2, memory_mb=0)
    assert [room.take(1, None) for _ in range(3)] == [True] * 3
    assert not room.take(2, None)
    room = Room(orders=6, slots=2, memory_mb=0)
    assert room.take(2, None)
    assert not room.take(1, None)  # nothing is held ahead beside one that is not plain


@pytest.mark.parametrize(
    ("said", "mb"), [("512M", 512), ("4G", 4096), ("1.5g", 1536), ("2GiB", 2048), ("1T", 1 << 20), (300, 300)]
)
def test_amounts_of_memory(said: object, mb: int) -> None:
    assert TypeAdapter(Memory).validate_python(said) == mb


@pytest.mark.parametrize("said", ["", "4 apples", "-1G", 0, True, "9999999T", None])
def test_what_is_no_amount_of_memory(said: object) -> None:
    with pytest.raises(ValidationError, match="512M or 4G"):
        TypeAdapter(Memory).validate_python(said)


def test_a_task_has_its_own_needs_before_its_jobs() -> None:
    job = spec.parse(
        {
            "name": "j",
            "client": "acme",
            "labels": ["ssd", "gpu"],
            "memory": "1G",
            "tasks": [
                {"name": "inherits", "run": "true"},
                {"name": "own", "run": "true", "labels": [], "slots": 3, "memory": "2G"},
                {"name": "up", "kind": "deploy", "token": "t", "infrastructure": {"pool": "p", "count": 1}},
            ],
        }
    )
    assert [job.needs_of(task) for task in job.tasks] == [Needs(1, 1024, ("gpu", "ssd")), Needs(3, 2048), Needs()]
    assert spec.parse(job.model_dump(mode="json", exclude_defaults=True)) == job
