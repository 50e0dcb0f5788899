"""What is told: one document of a job's end, as JSON for programs and as plain text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.model.states import TaskState
from orchestrator.model.tables import Client, Job, Task, Template, TemplateVersion, table

Document = dict[str, Any]
jobs, clients, tasks, templates, versions = (table(m) for m in (Job, Client, Task, Template, TemplateVersion))
FAILED_TASKS = 20
"""As many are told one by one."""
_job = (
    select(
        *(jobs.c[name] for name in (
            "id", "name", "state", "reason", "tasks", "version", "submitted_by", "submitted_at", "started_at",
            "finished_at",
        )),
        clients.c.name.label("client"),
        templates.c.name.label("template"),
        versions.c.number.label("template_version"),
    )
    .join(clients, clients.c.id == jobs.c.client_id)
    .join(versions, versions.c.id == jobs.c.template_version_id, isouter=True)
    .join(templates, templates.c.id == versions.c.template_id, isouter=True)
)  # fmt: skip
_failed = (
    select(*(tasks.c[name] for name in ("name", "state", "reason", "exit_code", "attempts", "finished_at")))
    .where(tasks.c.state == TaskState.FAILED)
    .order_by(tasks.c.finished_at, tasks.c.id)
    .limit(FAILED_TASKS)
)


def trial(id_: str) -> Document:
    """What `notify test` sends."""
    return {"id": id_, "event": "test", "job": None, "failed_tasks": []}


def of_job(connection: Connection, id_: str, job_id: int, url: str) -> Document:
    """The job as it is, and its tasks that failed, first ones first. `url` is the master's; times are ISO 8601 in UTC."""
    job = dict(connection.execute(_job.where(jobs.c.id == job_id)).mappings().one())
    failed = connection.execute(_failed.where(tasks.c.job_id == job_id)).mappings()
    job["url"] = f"{url}/#/jobs/{job_id}"
    return {
        "id": id_,
        "event": f"job.{job['state']}",
        "job": _as_json(job),
        "failed_tasks": [_as_json(dict(task)) for task in failed],
    }


def subject(document: Document) -> str:
    """`nightly #7 failed: load exited with 3 [acme]`. Names have no blanks or line breaks, by the job file's own rules."""
    job = document["job"]
    if job is None:
        return "Elastic Orchestrator: a trial message"
    told = f"{job['name']} #{job['id']} {job['state']}"
    if document["failed_tasks"]:
        told += f": {_how(document['failed_tasks'][0])}"
    return f"{told} [{job['client']}]"


def text(document: Document) -> str:
    """The whole story in plain lines."""
    job = document["job"]
    if job is None:
        return "This is a trial message: notifications to this address arrive.\n"
    facts = [
        ("client", job["client"]),
        ("template", job["template"] and f"{job['template']}, version {job['template_version']}"),
        ("why", job["reason"]),
        ("submitted", f"{job['submitted_at']} by {job['submitted_by']}"),
        ("started", job["started_at"]),
        ("ended", job["finished_at"]),
    ]
    lines = [f"Job {job['id']}, {job['name']}, {job['state']}.", "", *_aligned(facts)]
    if failed := document["failed_tasks"]:
        most = f" (the first {FAILED_TASKS})" if len(failed) == FAILED_TASKS else ""
        lines += ["", f"Failed tasks{most}:"]
        lines += [f"  {_how(task)} ({_tries(task['attempts'])}): {_one_line(task['reason'])}" for task in failed]
    return "\n".join([*lines, "", job["url"], ""])


def _how(task: Mapping[str, Any]) -> str:
    code = task["exit_code"]
    return f"{task['name']} failed" if code is None else f"{task['name']} exited with {code}"


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def _aligned(facts: Iterable[tuple[str, str | None]]) -> list[str]:
    return [f"{name + ':':<11}{_one_line(value)}" for name, value in facts if value]


def _one_line(value: str | None) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value or "").split())


def _as_json(row: Mapping[str, Any]) -> Document:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
