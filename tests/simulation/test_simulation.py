"""The simulation: seeds that keep every promise, the same run twice, and mutants that it notices."""

from __future__ import annotations

from collections import Counter

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.simulation import many, mutants
from orchestrator.simulation.plan import PER_CALL, PER_HOUR
from orchestrator.simulation.run import Outcome, simulate

SEEDS = 200
CHUNKS = 20  # so that they spread over the workers
IN_EVERY_RUN = ("the cap of a pool", "terminated only when seen gone", "the token rule", "the grace of orphans")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    many.quiet()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds_keep_every_promise(chunk: int) -> None:
    size = SEEDS // CHUNKS
    failed: list[Outcome] = []
    total = many.play(range(chunk * size, (chunk + 1) * size), failed.append, processes=1)
    told = [f"seed {one.seed}: {one.broken}\n" + "\n".join(one.trace[-40:]) for one in failed]
    assert not failed, "\n\n".join(told)
    assert total.machines > 0
    assert total.attempts > 0
    assert total.faults.total() > 0


def test_the_same_seed_gives_the_same_run_to_the_byte() -> None:
    for seed in (3, 7):
        first, second = (simulate(seed, keep=None) for _ in range(2))
        assert "\n".join(first.trace).encode() == "\n".join(second.trace).encode()
        assert len(first.trace) > 100


def test_every_kind_of_fault_strikes_in_some_seed() -> None:
    """A fault that is named and never happens would make the rest look better than it is."""
    struck: Counter[str] = Counter()
    for seed in range(300, 420):
        struck += simulate(seed, keep=1).faults
        if set(struck) == set(PER_CALL) | set(PER_HOUR):
            return
    assert set(struck) == set(PER_CALL) | set(PER_HOUR)


@pytest.mark.parametrize("name", IN_EVERY_RUN)
def test_a_guard_switched_off_is_noticed(name: str) -> None:
    mutant = next(mutant for mutant in mutants.MUTANTS if mutant.name == name)
    verdict = mutants.judge(mutant)
    assert verdict.caught, verdict.line()


def test_the_command_plays_seeds_and_says_what_they_were() -> None:
    told = CliRunner().invoke(app, ["simulate", "--seeds", "2", "--start", "5", "--processes", "1"])
    assert told.exit_code == 0, told.output
    assert "2 seeds in " in told.output
    assert "0 failed" in told.output


def test_the_command_soaks_one_installation_and_says_what_it_holds_at_each_rest() -> None:
    told = CliRunner().invoke(app, ["simulate", "--days", "0.5", "--seed", "4"])
    assert told.exit_code == 0, told.output
    assert "day  0.25: memory" in told.output
    assert "0.5 days of seed 4: every promise was kept" in told.output


def test_the_command_replays_one_seed_with_its_trace() -> None:
    told = CliRunner().invoke(app, ["simulate", "--seed", "5", "--trace"])
    assert told.exit_code == 0, told.output
    assert "master 1         starts" in told.output
    assert "seed 5: every promise was kept" in told.output


def test_a_seed_that_fails_is_told_with_its_replay_command(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Outcome(7, broken="the lease: i-1 is still up", trace=["     1.000  master 1  starts"])
    monkeypatch.setattr(many, "simulate", lambda seed: broken)
    told = CliRunner().invoke(app, ["simulate", "--seeds", "1", "--start", "7", "--processes", "1"])
    assert told.exit_code == 1
    assert "seed 7 FAILED: the lease: i-1 is still up" in told.output
    assert "master 1  starts" in told.output
    assert "orchestrator simulate --seed 7 --trace" in told.output
