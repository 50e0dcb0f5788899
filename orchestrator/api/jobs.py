"""Jobs: submit, list, show, explain, cancel."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import Response

from orchestrator.api.auth import Who, authenticated, needs, permit, permit_adding, permit_client
from orchestrator.api.deps import MasterDep, get_job
from orchestrator.api.problems import PROBLEMS, Problem, answer_to, not_found
from orchestrator.api.record import address_of
from orchestrator.api.shapes import (
    AttemptOut,
    Before,
    CancelOut,
    ExplanationOut,
    JobOut,
    JobParamOut,
    JobParamsOut,
    JobWithRunsOut,
    Limit,
    Page,
    RerunIn,
    RowId,
    SubmittedOut,
    TaskOut,
    TaskSummaryOut,
)
from orchestrator.app import Master
from orchestrator.faultpoints import reach
from orchestrator.fleet.explain import explain_job
from orchestrator.jobs import layers, spec
from orchestrator.jobs.cancel import cancel
from orchestrator.jobs.rerun import Rerun, rerun
from orchestrator.jobs.submit import Launch, Submitted, submit
from orchestrator.model.states import JOB_OPEN, JobState, TaskState
from orchestrator.people.roles import Permission, Role
from orchestrator.store import queries
from orchestrator.store.trouble import trouble_of
from orchestrator.store.writer import Tx

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], responses=PROBLEMS)
LARGEST_FILE = 16 << 20
LONGEST_KEY = 200
QUICK = 64 << 10  # bytes of a job file that is checked on the event loop: a larger one would hold up everybody
DOCUMENT = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "description": "a job file, or {file: a job file or its text, params: values that win over the file's}",
            }
        },
        "application/yaml": {"schema": {"type": "string", "description": "a job file"}},
    },
}
MAY_SUBMIT = Permission(Role.OPERATOR, of_client=True)
TaskName = Annotated[
    str | None, Query(max_length=120, description="the task's name, an element's such as shard[3]; none where it is alone")
]
_call = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": LONGEST_KEY},
        },
        {
            "name": "dry_commands",
            "in": "query",
            "required": False,
            "description": "true: each command is replaced by `sleep 1` at the last moment",
            "schema": {"type": "boolean"},
        },
    ],
    "requestBody": DOCUMENT,
}


@router.post("", status_code=201, response_model=SubmittedOut, openapi_extra=_call)
@needs(MAY_SUBMIT.role, of_client=MAY_SUBMIT.of_client)
async def submit_job(request: Request) -> Response:
    """Submit a job file. With an `Idempotency-Key`, asking again gives the same job."""
    # A plain handler, to which `api.http` leads straight: the framework's own way costs as much as the whole submission.
    try:
        return await _submitted(request)
    except (Problem, spec.SpecError) as error:
        return answer_to(error)
    except Exception as error:
        if (trouble := trouble_of(error)) is None:
            raise
        return answer_to(trouble)


async def _submitted(request: Request) -> Response:
    master: Master = request.app.state.master
    who = await authenticated(request)
    permit(who, MAY_SUBMIT)
    permit_adding(request)
    key = request.headers.get("idempotency-key")
    if key is not None and len(key) > LONGEST_KEY:
        raise Problem(422, "The request is not valid", f"Idempotency-Key may have {LONGEST_KEY} characters; shorten it")
    dry = request.query_params.get("dry_commands", "false")
    if dry not in ("true", "false"):
        raise Problem(422, "The request is not valid", f"dry_commands is {dry!r}; write true or false")
    job, params = await read_job(request)
    permit_client(who, job.client)
    origin = f"from {address_of(request.scope)}"
    reach("submit.before_write")
    launch = Launch(params, seal=master.vault.seal, origin=origin, dry_commands=dry == "true")
    done = await master.writer.awrite(lambda tx: submit(tx, job, actor=who.actor, idempotency_key=key, launch=launch))
    reach("submit.before_answer")
    body = orjson.dumps({"id": done.job_id, "repeated": done.repeated})
    return Response(body, 200 if done.repeated else 201, media_type="application/json")


@router.get("")
@needs(Role.VIEWER, of_client=True)
def list_jobs(
    master: MasterDep,
    who: Who,
    limit: Limit = 50,
    before: Before = None,
    state: JobState | None = None,
    client: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[JobOut]:
    """Jobs, newest first."""
    with master.engine.connect() as connection:
        rows = queries.list_jobs(connection, limit, before, state, client, who.client)
    return Page(items=[JobOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/{job_id}")
@needs(Role.VIEWER, of_client=True)
def show_job(master: MasterDep, who: Who, job_id: RowId) -> JobWithRunsOut:
    with master.engine.connect() as connection:
        row = get_job(connection, who, job_id)
        before, after = queries.runs_before(connection, row["rerun_of"]), queries.reruns_of(connection, job_id)
    return JobWithRunsOut(**row, runs_before=before, reruns=after)


@router.get("/{job_id}/tasks")
@needs(Role.VIEWER, of_client=True)
def list_tasks(
    master: MasterDep,
    who: Who,
    job_id: RowId,
    limit: Limit = 1000,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    state: TaskState | None = None,
    name: TaskName = None,
) -> Page[TaskOut]:
    """The job's tasks in the order of its file; `next` is the `after` of the next page. The name of an array is that of
    all its elements."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        rows = queries.list_tasks(connection, job_id, limit, after, name, state)
    return Page(items=[TaskOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/{job_id}/tasks/summary")
@needs(Role.VIEWER, of_client=True)
def summarise_tasks(master: MasterDep, who: Who, job_id: RowId) -> list[TaskSummaryOut]:
    """How many tasks of which name are in which state, an array as one, in the order of the job file."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        return [TaskSummaryOut(**row) for row in queries.summary_of_tasks(connection, job_id)]


@router.get("/{job_id}/attempts")
@needs(Role.VIEWER, of_client=True)
def list_attempts(
    master: MasterDep, who: Who, job_id: RowId, limit: Limit = 1000, before: Before = None
) -> Page[AttemptOut]:
    """Every try of every task of the job, newest first: where it ran, how it ended and why."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        rows = queries.list_attempts(connection, job_id, limit, before)
    return Page(items=[AttemptOut(**row) for row in rows], next=rows[-1]["id"] if len(rows) == limit else None)


@router.get("/{job_id}/params")
@needs(Role.VIEWER, of_client=True)
def list_params(master: MasterDep, who: Who, job_id: RowId) -> JobParamsOut:
    """The parameters that the job has, and who gave each; secrets are masked."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        found = queries.params_of_job(connection, job_id)
    if found is None:
        raise not_found("job", job_id)
    items = [
        JobParamOut(name=name, value=layers.shown(value), secret=not isinstance(value, str), source=source)
        for name, value, source in found
    ]
    return JobParamsOut(precedence=list(layers.PRECEDENCE), items=items)


@router.get("/{job_id}/explain")
@needs(Role.VIEWER, of_client=True)
def explain(master: MasterDep, who: Who, job_id: RowId) -> ExplanationOut:
    """Why the job is as it is, in plain sentences, and what is expected next."""
    with master.engine.connect() as connection:
        get_job(connection, who, job_id)
        found = explain_job(connection, job_id, master.clock())
    if found is None:
        raise not_found("job", job_id)
    return ExplanationOut(subject=found.subject, state=found.state, sentences=found.sentences, next=found.next)


@router.post("/{job_id}/cancel")
@needs(Role.OPERATOR, of_client=True)
async def cancel_job(master: MasterDep, who: Who, job_id: RowId, _: Annotated[Any, Body()] = None) -> CancelOut:
    """Ask the job to stop; its running tasks get TERM, and KILL after their grace."""

    def work(tx: Tx) -> bool:
        get_job(tx.connection, who, job_id)
        return cancel(tx, job_id, actor=who.actor)

    return CancelOut(id=job_id, cancelling=await master.writer.awrite(work))


@router.post("/{job_id}/rerun", status_code=201)
@needs(Role.OPERATOR, of_client=True)
async def rerun_job(
    master: MasterDep,
    who: Who,
    job_id: RowId,
    body: RerunIn,
    idempotency_key: Annotated[str | None, Header(max_length=LONGEST_KEY)] = None,
) -> SubmittedOut:
    """Do an ended job again, as a new job: all of it, or only some tasks and what needs them, the others kept."""
    asked = Rerun(body.from_, body.failed, body.params, master.vault.seal)

    def work(tx: Tx) -> Submitted:
        job = get_job(tx.connection, who, job_id)
        if job["state"] in JOB_OPEN:
            raise Problem(409, "Not ended yet", f"job {job_id} is {job['state']}; wait for its end, or cancel it first")
        return rerun(tx, job_id, asked, actor=who.actor, idempotency_key=idempotency_key)

    done = await master.writer.awrite(work)
    return SubmittedOut(id=done.job_id, repeated=done.repeated)


async def read_job(request: Request) -> tuple[spec.JobSpec, dict[str, Any]]:
    """The checked job file of a request, a large one checked on a thread, and the parameters of its launch."""
    document, params = _unwrapped(await _document(request))
    large = int(request.headers.get("content-length", "0") or 0) > QUICK
    return (await asyncio.to_thread(spec.parse, document) if large else spec.parse(document)), params


def _unwrapped(document: str | bytes | dict[str, Any]) -> tuple[str | bytes | dict[str, Any], dict[str, Any]]:
    """The job file and the parameters of its launch, from `{file: …, params: …}` or from the job file alone."""
    if not isinstance(document, dict) or "file" not in document:
        return document, {}
    problems = [
        (str(key), "unknown field; a submission has file and params") for key in document.keys() - {"file", "params"}
    ]
    file, params = document["file"], document.get("params", {})
    if not isinstance(file, str | dict):
        problems.append(("file", "must be a job file: its text or its document"))
    if not isinstance(params, dict):
        problems.append(("params", "must be a mapping of names to values"))
    if problems:
        raise spec.SpecError(problems)
    return file, params


async def _document(request: Request) -> str | bytes | dict[str, Any]:
    body = await request.body()
    if len(body) > LARGEST_FILE:
        raise Problem(413, "Too large", f"a job file may have {LARGEST_FILE} bytes; split the job")
    if "yaml" in request.headers.get("content-type", ""):
        return body
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise spec.SpecError(
            [(f"line {error.lineno}, column {error.colno}", f"not valid JSON ({error.msg}); mend it there")]
        ) from error
    return document if isinstance(document, dict) else body
