"""What this master knows of the agents that call it, in memory: who is who, last heard when, which attempts are whose.

All of it can be lost: credentials and attempts are looked up again, and a heartbeat is only as old as the last call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, select

from orchestrator.fleet.secrets import sha256
from orchestrator.model.states import NodeState
from orchestrator.model.tables import Attempt, Node, Pool, table

nodes, attempts, pools = table(Node), table(Attempt), table(Pool)


@dataclass(slots=True)
class Session:
    node_id: int
    token: str | None
    pool_id: int
    longest_wait_s: float
    checked: int | None = None  # the last check of its engine that was written down
    attempts: set[int] = field(default_factory=set)


class Sessions:
    """Sessions by credential. Thread-safe: looked up from the event loop, flushed from the fleet's threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_credential: dict[str, Session] = {}
        self._heard: dict[int, datetime] = {}
        self._lock = threading.Lock()

    def known(self, credential: str) -> Session | None:
        return self._by_credential.get(credential)

    def look_up(self, credential: str) -> Session | None:
        """The session of a node credential from its row; None for a wrong one. Reads the database."""
        columns = (nodes.c.id, nodes.c.token, nodes.c.pool_id, nodes.c.state, pools.c.heartbeat_timeout_s)
        query = select(*columns).join(pools, pools.c.id == nodes.c.pool_id)
        with self._engine.connect() as connection:
            row = connection.execute(query.where(nodes.c.credential_hash == sha256(credential))).first()
        if row is None:
            return None
        # An agent that waits here is heard of only when it comes back: well before it would be thought silent.
        session = Session(row.id, row.token, row.pool_id, longest_wait_s=row.heartbeat_timeout_s / 3)
        if row.state != NodeState.TERMINATED:
            self._by_credential[credential] = session
        return session

    def forget(self, credential: str) -> None:
        """The node has ended."""
        self._by_credential.pop(credential, None)

    def owns(self, session: Session, attempt_ids: set[int]) -> set[int]:
        """Which of these attempts are the node's. Reads the database for those not handed out by this process."""
        unknown = attempt_ids - session.attempts
        if unknown:
            mine = (attempts.c.id.in_(unknown), attempts.c.node_id == session.node_id)
            with self._engine.connect() as connection:
                session.attempts |= set(connection.execute(select(attempts.c.id).where(*mine)).scalars())
        return attempt_ids & session.attempts

    def heard(self, node_id: int, at: datetime) -> None:
        with self._lock:
            self._heard[node_id] = at

    def flush(self) -> dict[int, datetime]:
        """The heartbeats since the last flush."""
        with self._lock:
            heard, self._heard = self._heard, {}
        return heard

    def put_back(self, heard: Mapping[int, datetime]) -> None:
        """Heartbeats that could not be written down, for the next flush; newer ones count."""
        with self._lock:
            self._heard = {**heard, **self._heard}
