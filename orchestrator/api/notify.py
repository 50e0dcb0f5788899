"""Notifications: of a job, of a client; the secret that signs them; a trial message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Path as UrlPath
from pydantic import BaseModel, Field
from sqlalchemy import select
from starlette.responses import Response

from orchestrator.api.auth import Caller, Who, needs
from orchestrator.api.deps import MasterDep, get_job
from orchestrator.api.problems import PROBLEMS, Problem
from orchestrator.api.shapes import Before, Limit, Page, RowId
from orchestrator.jobs import notify_clients
from orchestrator.jobs.notify import Notify, Outcome, shown
from orchestrator.jobs.spec import Name
from orchestrator.model.tables import Client, Notification, table
from orchestrator.notify.answers import Undelivered
from orchestrator.notify.message import trial
from orchestrator.people.roles import Role
from orchestrator.store.writer import Tx

router = APIRouter(prefix="/api/v1", tags=["notifications"], responses=PROBLEMS)
notifications, clients = table(Notification), table(Client)
ClientName = Annotated[Name, UrlPath(description="a client's name")]
To = Annotated[str, Field(description="host of a webhook, whose path is not shown, or e-mail address")]


class NotificationOut(BaseModel):
    """One message about a job's end to one place."""

    id: int
    job_id: int
    to: To
    state: str = Field(description="pending, sent, or failed: it is not tried again")
    reason: str | None = Field(description="what the receiver answered last, or why nothing could be sent")
    tries: int
    run_after: datetime | None = Field(description="when it is tried next; while it is tried, when that is given up")
    created_at: datetime
    sent_at: datetime | None


class WishOut(BaseModel):
    """A place that hears of a client's jobs."""

    number: int = Field(description="what it is removed by")
    to: To
    on: list[Outcome]
    secret: str | None = Field(description="name of the secret that signs; null: the installation's")


class SecretOut(BaseModel):
    secret: str


class TrialIn(Notify):
    """A place to send a trial message to. `client` is whose secret signs where one is named."""

    client: Name = "trial"


class TrialOut(BaseModel):
    sent: bool
    reason: str = Field(description="what the receiver answered, or why nothing could be sent")


@router.get("/jobs/{job_id}/notifications")
@needs(Role.VIEWER, of_client=True)
def list_notifications(
    master: MasterDep, who: Who, job_id: RowId, limit: Limit = 100, before: Before = None
) -> Page[NotificationOut]:
    """Who is told of the job's end, newest first, and what came of it."""
    query = select(notifications).where(notifications.c.job_id == job_id).order_by(notifications.c.id.desc()).limit(limit)
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        rows = connection.execute(query if before is None else query.where(notifications.c.id < before)).mappings().all()
    items = [NotificationOut(**row, to=shown(row["target"])) for row in rows]
    return Page(items=items, next=items[-1].id if len(items) == limit else None)


@router.get("/clients/{name}/notify")
@needs(Role.VIEWER, of_client=True)
def list_wishes(master: MasterDep, who: Who, name: ClientName) -> Page[WishOut]:
    """Who hears of every job of the client, besides those that its job files name."""
    with master.engine.connect() as connection:
        row = connection.execute(select(clients.c.notify).where(clients.c.name == name)).first()
    if row is None or not who.sees(name):
        raise _no_client(name)
    return Page(items=[_wish(entry) for entry in row.notify or []])


@router.post("/clients/{name}/notify", status_code=201)
@needs(Role.OPERATOR, of_client=True)
async def add_wish(master: MasterDep, who: Who, name: ClientName, body: Notify) -> WishOut:
    """Let a place hear of every job of the client from now on, those that run already among them."""
    if not who.sees(name):
        raise _no_client(name)
    try:
        entry = await master.writer.awrite(lambda tx: notify_clients.add(tx, name, body, actor=who.actor))
    except notify_clients.ListFull as error:
        raise Problem(409, "The list is full", str(error)) from error
    return _wish(entry)


@router.delete("/clients/{name}/notify/{number}", status_code=204)
@needs(Role.OPERATOR, of_client=True)
async def remove_wish(master: MasterDep, who: Who, name: ClientName, number: RowId) -> Response:
    """What is on its way already is still sent."""

    def work(tx: Tx) -> bool:
        return who.sees(name) and notify_clients.remove(tx, name, number, actor=who.actor)

    if not await master.writer.awrite(work):
        detail = f"{name} has no notification {number}; see `orchestrator client notify {name} list`"
        raise Problem(404, "Not found", detail)
    return Response(status_code=204)


@router.get("/notify/secret")
@needs(Role.ADMIN)
def show_secret(
    master: MasterDep,
    _: Caller,
    client: Annotated[Name | None, Query(description="with `name`: the client whose job files name the secret")] = None,
    name: Annotated[Name | None, Query(description="the `secret:` of a webhook")] = None,
) -> SecretOut:
    """What a receiver checks signatures with: the installation's secret, or one that a client's webhooks name."""
    if (client is None) != (name is None):
        raise Problem(422, "Which secret?", "name both client and name, or neither for the installation's secret")
    return SecretOut(secret=master.courier.secret(client, name))


@router.post("/notify/test")
@needs(Role.OPERATOR)
async def send_trial(master: MasterDep, _: Caller, body: TrialIn) -> TrialOut:
    """Send a trial message now, once, and say what came of it."""
    now = master.clock()
    id_ = master.courier.id_of(f"test-{now:%Y%m%dT%H%M%S}")
    try:
        answer = await master.courier.deliver(body.model_dump(exclude_none=True), body.client, trial(id_), now)
    except Undelivered as error:
        return TrialOut(sent=False, reason=str(error))
    return TrialOut(sent=True, reason=answer)


def _wish(entry: Mapping[str, Any]) -> WishOut:
    on = entry.get("on", ["always"])
    return WishOut(number=entry["number"], to=shown(entry), on=on, secret=entry.get("secret"))


def _no_client(name: str) -> Problem:
    detail = f"there is no client {name}; one is made with its first job, or by `orchestrator client notify {name} add`"
    return Problem(404, "Not found", detail)
