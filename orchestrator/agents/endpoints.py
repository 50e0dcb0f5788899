"""What agents call, under `/agent/v1`: boot, the agent itself, enrol, sync. Plain handlers: this is the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

import orjson
import structlog
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.agents.artifacts import LARGEST_PIECE, ArtifactIntake, Piece, Refusal
from orchestrator.agents.exchange import Answer, SyncMessage, exchange
from orchestrator.agents.handover import Handover
from orchestrator.agents.intake import LogIntake
from orchestrator.agents.masks import Masks
from orchestrator.agents.package import agent_package
from orchestrator.agents.refusals import Refusals
from orchestrator.agents.results import Result, accept
from orchestrator.agents.sessions import Session, Sessions
from orchestrator.agents.waiters import Waiters
from orchestrator.clock import Clock
from orchestrator.faultpoints import reach
from orchestrator.files.base import LogStore
from orchestrator.files.feed import LogFeed
from orchestrator.fleet import signals
from orchestrator.fleet.bootstrap import enrol_script
from orchestrator.fleet.enrolment import Enrol, Refused, enrol
from orchestrator.jobs.outcomes import Outcome
from orchestrator.jobs.secrets import Unopenable
from orchestrator.store.trouble import Full, trouble_of
from orchestrator.store.writer import Tx, Writer

log = structlog.get_logger(__name__)
PROTOCOLS = (1, 2)
"""What this master speaks: the agents' own and the one before, for machines that run while the master is upgraded."""
LARGEST_BODY = 4 << 20
PRINTABLE = r"^[ -~]*$"
M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class BootMessage(BaseModel):
    """What a machine tells that has no agent yet."""

    secret: str = Field(max_length=200)
    instance_id: str = Field(max_length=200, pattern=PRINTABLE)
    phase: Literal["cloud-init began", "agent fetched"]


class EnrolMessage(BaseModel):
    secret: str = Field(max_length=200)
    instance_id: str = Field(max_length=200, pattern=PRINTABLE)
    credential: str = Field(min_length=32, max_length=200)
    agent_version: str = Field(max_length=100, pattern=PRINTABLE)
    protocol: int = Field(ge=0, le=1000)
    memory_mb: int | None = Field(None, ge=1, le=1 << 30)  # older agents do not say it


class AgentEndpoints:
    """The routes over the services they need."""

    def __init__(
        self,
        writer: Writer,
        sessions: Sessions,
        waiters: Waiters,
        logs: LogStore,
        artifacts: ArtifactIntake,
        clock: Clock,
        *,
        masks: Masks,
        key: bytes,
        installation: str,
    ) -> None:
        self._writer = writer
        self._sessions = sessions
        self._waiters = waiters
        self.handover = Handover(waiters)
        self.feed = LogFeed()
        self.logs = LogIntake(logs, sessions, self.feed, self._refuse, masks.masked)
        self.artifacts = artifacts
        self._log_limit = logs.limit
        self._masks = masks
        self._clock = clock
        self._refusals = Refusals()
        self._note_booting = partial(signals.booting, key=key, installation=installation, refusals=self._refusals)
        self._let_in = partial(enrol, key=key, installation=installation, refusals=self._refusals)

    def routes(self) -> list[Route]:
        return [
            Route("/agent/v1/boot", _told_of_trouble(self.boot), methods=["POST"]),
            Route("/agent/v1/agent.pyz", _told_of_trouble(self.agent), methods=["GET"]),
            Route("/agent/v1/enrol.sh", _enrol_script, methods=["GET"]),
            Route("/agent/v1/enrol", _told_of_trouble(self.enrol), methods=["POST"]),
            Route("/agent/v1/artifact", _told_of_trouble(self.artifact), methods=["POST"]),
            Route("/agent/v1/sync", _told_of_trouble(self.sync), methods=["POST"]),
        ]

    async def boot(self, request: Request) -> Response:
        message = await _read(request, BootMessage)
        if isinstance(message, Response):
            return message
        if await self._booting(request, message):
            return _say(200, {})
        return _say(403, {"error": "unknown machine or wrong enrolment secret"})

    async def agent(self, request: Request) -> Response:
        """Anybody's; who says which machine it is has come so far in its boot."""
        secret, instance_id = _credential(request), request.headers.get("x-instance-id", "")
        try:
            message = BootMessage(secret=secret, instance_id=instance_id, phase=signals.FETCHED)
        except ValidationError:
            message = None
        if secret and message is not None:
            await self._booting(request, message)
        return Response(agent_package().content, media_type="application/zip")

    async def _booting(self, request: Request, message: BootMessage) -> bool:
        told = signals.Booting(message.secret, message.instance_id, message.phase, _address(request))
        return await self._writer.awrite(lambda tx: self._note_booting(tx, told))

    async def enrol(self, request: Request) -> Response:
        message = await _read(request, EnrolMessage)
        if isinstance(message, Response):
            return message
        if message.protocol not in PROTOCOLS:
            spoken = " and ".join(map(str, PROTOCOLS))
            return _say(400, {"error": f"this master speaks agent protocols {spoken}, not {message.protocol}"})
        asked = Enrol(
            message.secret,
            message.instance_id,
            message.credential,
            message.agent_version,
            _address(request),
            message.memory_mb,
        )
        reach("enrol.before_write")
        answer = await self._writer.awrite(lambda tx: self._let_in(tx, asked))
        reach("enrol.before_answer")
        if isinstance(answer, Refused):
            return _say(403 if answer.final else 425, {"error": answer.reason})
        return _say(200, {**asdict(answer), "log_limit": self._log_limit})

    async def sync(self, request: Request) -> Response:
        session = await self._session(request)
        if session is None:
            return _say(401, {"error": "unknown node credential; this machine has no place here"})
        message = await _read(request, SyncMessage)
        if isinstance(message, Response):
            return message
        self._sessions.heard(session.node_id, self._clock())
        if message.health is not None or message.reclaim_at is not None:
            await self._hear(session, message)
        offsets = await self.logs.take(session, message.logs)
        reach("sync.before_write")
        answer = await self._exchange(session, message)
        if answer.gone:
            self._sessions.forget(_credential(request))
            return _say(410, {"error": "this node has ended"})
        reach("sync.before_answer")
        orders = await self._opened(session, answer.orders)
        session.attempts.update(order["attempt"] for order in orders)
        session.attempts.difference_update(answer.acknowledged)
        self.logs.over(answer.acknowledged)
        self._masks.forget(answer.acknowledged)
        return _say(
            200,
            {
                "orders": orders,
                "stop": [{"attempt": id_, "why": why} for id_, why in answer.stop.items()],
                "acknowledged": answer.acknowledged,
                "logs": [{"attempt": id_, "offset": offset} for id_, offset in offsets.items()],
                "draining": answer.draining,
            },
        )

    async def artifact(self, request: Request) -> Response:
        """A piece of a file; the query says of which, see `artifacts.Piece`."""
        session = await self._session(request)
        if session is None:
            return _say(401, {"error": "unknown node credential; this machine has no place here"})
        self._sessions.heard(session.node_id, self._clock())
        try:
            piece = Piece.model_validate(dict(request.query_params))
        except ValidationError as error:
            return _invalid(error)
        data = await _body(request, LARGEST_PIECE)
        if data is None:
            return _say(413, {"error": f"a piece may have {LARGEST_PIECE} bytes"})
        try:
            return _say(200, await self.artifacts.take(session, piece, data))
        except Refusal as refusal:
            if refusal.status in (403, 422):
                await self._refuse(session, "artifact", f"artifact of attempt {piece.attempt} refused: {refusal.reason}")
            return _say(refusal.status, {"error": refusal.reason})

    async def _hear(self, session: Session, message: SyncMessage) -> None:
        """News of the machine itself. A call that repeats them, for its answer was lost, changes nothing."""
        health, reclaim_at = message.health, message.reclaim_at
        fresh = health is not None and health.check != session.checked
        if not fresh and reclaim_at is None:
            return

        def note(tx: Tx) -> None:
            if health is not None and fresh:
                signals.engine_checked(tx, session.node_id, "" if health.ok else health.trouble or "it does not say which")
            if reclaim_at is not None:
                signals.taken_back(tx, session.node_id, datetime.fromtimestamp(reclaim_at, UTC))

        await self._writer.awrite(note)
        if health is not None:
            session.checked = health.check

    async def _exchange(self, session: Session, message: SyncMessage) -> Answer:
        """Exchange at once; with nothing to say, wait until there is or the agent's time is over."""
        waits = message.wait_s > 0 and not message.results and not message.logs
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(message.wait_s, session.longest_wait_s)
        while True:
            waiter = self._waiters.enter(session.node_id, session.token, session.pool_id, wants_tasks=message.free > 0)
            try:
                answer = await self._writer.awrite(lambda tx: exchange(tx, session.node_id, message))
                left_s = deadline - loop.time()
                if not waits or answer.is_news(message) or left_s <= 0:
                    return answer
                reach("sync.before_wait")
                self.handover.offer(waiter, message)
                outcome = await waiter.wait(left_s)
                if not isinstance(outcome, bool):
                    return outcome
                if not outcome:
                    return Answer()
            finally:
                self.handover.withdraw(waiter)
                self._waiters.leave(waiter)

    async def _opened(self, session: Session, orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The orders as this node may have them: only here, past every row and event, are secrets plain text. An attempt
        whose secrets cannot be opened fails as the infrastructure's, and says why."""
        found = []
        for order in orders:
            try:
                found.append(self._masks.open(order))
            except Unopenable as error:
                failed = Result(order["attempt"], Outcome("start_failed", detail=str(error)))
                await self._writer.awrite(lambda tx, failed=failed: accept(tx, session.node_id, [failed]))  # type: ignore[misc]
        return found

    async def _refuse(self, session: Session, kind: str, reason: str, attempt_id: int | None = None) -> None:
        """On record once a minute of each node and kind."""
        node_id, request = session.node_id, object()

        def tell(tx: Tx) -> None:
            if self._refusals.deserves((node_id, kind), request, tx.now):
                tx.tell("node", node_id, reason, actor="agent", node_id=node_id, attempt_id=attempt_id)

        await self._writer.awrite(tell)

    async def _session(self, request: Request) -> Session | None:
        credential = _credential(request)
        return self._sessions.known(credential) or await asyncio.to_thread(self._sessions.look_up, credential)


async def _enrol_script(_: Request) -> Response:
    return Response(enrol_script(), media_type="text/x-shellscript")


def _told_of_trouble(handler: Handler) -> Handler:
    """An agent hears of a database in trouble by an answer that makes it come again with all it has."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            if (trouble := trouble_of(error)) is None:
                raise
            return _say(507 if isinstance(trouble, Full) else 503, {"error": str(trouble)})

    return handle


async def _read(request: Request, model: type[M]) -> M | Response:
    body = await _body(request, LARGEST_BODY)
    if body is None:
        return _say(413, {"error": f"a call may have {LARGEST_BODY} bytes; send logs in smaller chunks"})
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        return _invalid(error)


async def _body(request: Request, most: int) -> bytes | None:
    """None for one that is larger."""
    if int(request.headers.get("content-length", "0") or 0) > most:
        return None
    body = bytearray()
    async for part in request.stream():  # a call in chunks claims no length
        body += part
        if len(body) > most:
            return None
    return bytes(body)


def _invalid(error: ValidationError) -> Response:
    first = error.errors(include_url=False, include_input=False)[0]
    return _say(422, {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None


def _credential(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _say(status: int, body: object) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
