"""`orchestrator doctor`: what could keep machines from coming, and how to mend it."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.cli.render import table
from orchestrator.cli.session import Session


def doctor(session: Session) -> None:
    """Say what is wrong with settings, database, clouds and pools, and how to mend it. Exit status: 0, or 1 where wrong.

    With --url the master there looks; without it this command does, by the settings here, whether or not a master runs.
    """
    found: dict[str, Any] = session.api.get("doctor") if session.url_given else _look_here(session)

    def text() -> None:
        rows = [(item["about"], item["subject"], item["verdict"], item["told"]) for item in found["findings"]]
        table(("about", "subject", "verdict", "what was found"), rows, "Nothing was looked at.")
        print(", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items()))

    session.show(found, text)
    if not found["healthy"]:
        raise typer.Exit(1)


def _look_here(session: Session) -> dict[str, Any]:
    from sqlalchemy.exc import ArgumentError

    from orchestrator.cli.client import Complaint
    from orchestrator.doctor.examine import Diagnosis, doctor_here
    from providers.base import Finding, Verdict

    try:
        with doctor_here(session.settings) as here:
            return here.examine().document()
    except Complaint as complaint:
        wrong = [Finding("settings", Verdict.WRONG, line) for line in complaint.lines]
    except ArgumentError as error:
        told = f"database_url is none: {error}; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        wrong = [Finding("database", Verdict.WRONG, told)]
    return Diagnosis({"master": wrong}).document()
