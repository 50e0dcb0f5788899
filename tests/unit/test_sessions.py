"""Heartbeats in memory: written down together, and kept where that fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import create_engine

from orchestrator.agents.sessions import Sessions

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)


def test_heartbeats_that_could_not_be_written_down_come_with_the_next_ones() -> None:
    """While a database is away agents call all the same: none of them may seem silent afterwards."""
    sessions = Sessions(create_engine("sqlite://"))
    sessions.heard(1, NOW)
    sessions.heard(2, NOW)
    failed = sessions.flush()
    later = NOW + timedelta(seconds=3)
    sessions.heard(2, later)
    sessions.put_back(failed)
    assert sessions.flush() == {1: NOW, 2: later}
    assert sessions.flush() == {}
