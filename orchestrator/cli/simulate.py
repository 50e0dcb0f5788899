"""`orchestrator simulate`: the control code under a seeded plan of faults. Needs no master and touches no cloud."""

from __future__ import annotations

from typing import Annotated

import typer

SHOWN = 60  # lines of a failing seed's trace


def simulate(
    seed: Annotated[int | None, typer.Option(help="Play this seed alone.")] = None,
    seeds: Annotated[int, typer.Option(help="Play so many seeds.")] = 100,
    start: Annotated[int, typer.Option(help="Begin with this one.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print all that happened (with --seed).")] = False,
    processes: Annotated[int | None, typer.Option(help="Play on so many cores; default: all.")] = None,
    days: Annotated[
        float | None, typer.Option(help="A soak: one installation that lives so many simulated days (with --seed).")
    ] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Switch each guard off in turn: each must be noticed.")
    ] = False,
) -> None:
    """Play seeds of the simulation: the real control code and agents under virtual time and faults."""
    from orchestrator.simulation import many

    many.quiet()
    if mutants:
        _mutants(processes)
    elif days is not None:
        _soak(days, seed or 0)
    elif seed is not None:
        _one(seed, trace=trace)
    else:
        total = many.play(range(start, start + seeds), _tell, processes=processes)
        typer.echo(total.line())
        raise typer.Exit(1 if total.failed else 0)


def _one(seed: int, *, trace: bool) -> None:
    from orchestrator.simulation import many
    from orchestrator.simulation.run import simulate as play

    outcome = play(seed, keep=None if trace else SHOWN)
    if trace or outcome.broken:
        typer.echo("\n".join(outcome.trace))
    total = many.Total()
    total.add(outcome)
    typer.echo(f"seed {seed}: {outcome.broken or 'every promise was kept'}")
    typer.echo(total.line())
    raise typer.Exit(1 if outcome.broken else 0)


def _soak(days: float, seed: int) -> None:
    from orchestrator.simulation import many
    from orchestrator.simulation.soak import soak

    outcome = soak(days, seed, lambda rest: typer.echo(rest.line()))
    if outcome.broken:
        typer.echo("\n".join(outcome.trace[-SHOWN:]))
    total = many.Total()
    total.add(outcome)
    typer.echo(f"{days:g} days of seed {seed}: {outcome.broken or 'every promise was kept'}")
    typer.echo(total.line())
    raise typer.Exit(1 if outcome.broken else 0)


def _tell(outcome: object) -> None:
    from orchestrator.simulation.run import Outcome

    assert isinstance(outcome, Outcome)
    typer.echo(f"seed {outcome.seed} FAILED: {outcome.broken}")
    typer.echo("\n".join(f"    {line}" for line in outcome.trace[-SHOWN:]))
    typer.echo(f"  again: orchestrator simulate --seed {outcome.seed} --trace")


def _mutants(processes: int | None) -> None:
    from orchestrator.simulation.mutants import MUTANTS, judge_all

    unnoticed = 0
    for verdict in judge_all(processes=processes):
        unnoticed += not verdict.caught
        typer.echo(verdict.line())
    typer.echo(f"{len(MUTANTS)} mutants, {unnoticed} unnoticed")
    raise typer.Exit(1 if unnoticed else 0)
