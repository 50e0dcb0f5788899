"""`orchestrator job …`: list, show, logs, explain, wait, cancel, rerun."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.artifacts import artifacts, download
from orchestrator.cli.logs import JobId, logs
from orchestrator.cli.render import ago, at, bar, counts, explanation, fields, lasted, table
from orchestrator.cli.session import Session, command, say
from orchestrator.cli.waiting import (
    How,
    OnInterruptOption,
    Quiet,
    WaitTimeout,
    at_first,
    wait_for,
    with_statuses_above,
)

app = typer.Typer(no_args_is_help=True, help="Jobs: what was submitted, how it is, and why.")
LISTED = 100


@command(app, "list")
def list_jobs(
    session: Session,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled")] = None,
    client: Annotated[str | None, typer.Option(help="only this client's")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most jobs shown")] = 50,
) -> None:
    """Jobs, newest first."""
    page = session.api.page("jobs", limit, state=state, client=client)
    session.show(page, lambda: _table_of_jobs(page["items"]))
    if page["next"] and not session.json:
        say(f"there are more; --limit {limit * 10} shows more of them")


@command(app, "show")
def show(
    session: Session,
    job: JobId,
    name: Annotated[str | None, typer.Option(help="only this task, or the elements of this array")] = None,
    state: Annotated[str | None, typer.Option(help="only tasks that are so: failed, running, …")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most tasks listed one by one; of more there is a summary")] = LISTED,
) -> None:
    """One job with its tasks (in JSON: `task_list`, and `task_summary` by name) and its parameters (`params`)."""
    found = session.api.get(f"jobs/{job}")
    summary = session.api.get(f"jobs/{job}/tasks/summary")
    params = session.api.get(f"jobs/{job}/params")["items"]
    chosen = name is not None or state is not None
    many = found["tasks"] > limit and not chosen
    page = session.api.page(
        f"jobs/{job}/tasks", limit, cursor="after", name=name, state="failed" if many and not session.json else state
    )
    tasks = page["items"]

    def text() -> None:
        fields(
            [
                ("job", found["id"]),
                ("name", found["name"]),
                ("client", found["client"]),
                ("state", found["state"]),
                ("reason", found["reason"]),
                ("token", found["token"]),
                ("template", f"{found['template']}, version {found['template_version']}" if found["template"] else None),
                ("version", found["version"]),
                ("rerun of", ", again of ".join(map(str, found["runs_before"]))),
                ("rerun by", ", ".join(map(str, found["reruns"]))),
                ("tasks", f"{found['tasks'] - found['open_tasks']} of {found['tasks']} ended"),
                ("submitted", f"{at(found['submitted_at'])} by {found['submitted_by']}"),
                ("ran for", lasted(found["started_at"], found["finished_at"])),
                ("cancelled", at(found["cancel_requested_at"])),
            ]
        )
        print()
        if many:
            table(("tasks", "number", "done", "states"), map(_summary_row, summary), "It has no tasks.")
            print()
        if tasks or not many:
            columns = ("task", "state", "pool", "node", "attempts", "exit", "ran for", "reason")
            table(columns, map(_task_row, tasks), "It has no such tasks." if chosen else "It has no tasks.")
        if page["next"]:
            say(f"there are more; --limit {limit * 10} shows more of them")
        if params:
            print()
            rows = [(each["name"], each["value"], each["source"]) for each in params]
            table(("parameter", "value", "from"), rows, "It has no parameters.")

    session.show({**found, "task_list": tasks, "task_summary": summary, "params": params}, text)


command(app, "logs")(logs)
command(app, "artifacts")(artifacts)
command(app, "download")(download)


@command(app, "explain")
def explain(session: Session, job: JobId) -> None:
    """Why it is as it is, and what comes next."""
    found = session.api.get(f"jobs/{job}/explain")
    session.show(found, lambda: explanation(found))


@command(app, "wait")
def wait(
    session: Session,
    job: JobId,
    quiet: Quiet = False,
    wait_timeout: WaitTimeout = None,
    on_interrupt: OnInterruptOption = None,
) -> None:
    """Wait until it has ended; the exit status is the job's, as with `submit --wait`."""
    how = How.asked(quiet, wait_timeout, on_interrupt)
    with with_statuses_above():
        at_first(how).until_answered(lambda: session.api.get(f"jobs/{job}"))
        wait_for(session, job, how)


@command(app, "cancel")
def cancel(session: Session, job: JobId) -> None:
    """Ask it to stop; what runs is given time to end."""
    done = session.api.post(f"jobs/{job}/cancel")
    told = f"job {job} is being cancelled" if done["cancelling"] else f"job {job} had ended already"
    session.show(done, lambda: print(told))


@command(app, "rerun")
def rerun(
    session: Session,
    job: JobId,
    from_: Annotated[
        list[str] | None, typer.Option("--from", metavar="TASK", help="this one and all that needs it; may be repeated")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="what did not succeed, and all that needs it")] = False,
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="a parameter; wins over the job's")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until it has ended; the exit status says how")] = False,
    quiet: Quiet = False,
    wait_timeout: WaitTimeout = None,
    on_interrupt: OnInterruptOption = None,
) -> None:
    """Do an ended job again, as a new one: all of it, or from some tasks on; what succeeded else is kept."""
    from orchestrator.cli.submit import create, params_of

    def body() -> dict[str, Any]:
        return {"from": from_ or [], "failed": failed, "params": params_of(param or [])}

    create(session, f"jobs/{job}/rerun", body, None, wait=wait, how=(quiet, wait_timeout, on_interrupt))


def _table_of_jobs(jobs: list[dict[str, Any]]) -> None:
    columns = ("id", "name", "client", "state", "tasks", "submitted", "ran for", "reason")
    table(columns, map(_job_row, jobs), "There are no such jobs; `orchestrator submit FILE` makes one.")


def _job_row(job: dict[str, Any]) -> tuple[object, ...]:
    ended = f"{job['tasks'] - job['open_tasks']}/{job['tasks']}"
    ran = lasted(job["started_at"], job["finished_at"])
    return job["id"], job["name"], job["client"], job["state"], ended, ago(job["submitted_at"]), ran, job["reason"]


def _task_row(task: dict[str, Any]) -> tuple[object, ...]:
    ran = lasted(task["started_at"], task["finished_at"])
    tries, code = task["attempts"], task["exit_code"]
    why = task["reason"]
    if task["state"] == "running" and task["progress"] is not None:
        why = " ".join([bar(task["progress"]), task["progress_note"] or ""]).strip()
    if task["skipped_because"]:
        why = f"{task['skipped_because']}: {why}"
    return task["name"], task["state"], task["pool"], task["node_id"], tries, code, ran, why


def _summary_row(row: dict[str, Any]) -> tuple[object, ...]:
    return row["name"], row["tasks"], bar(row["progress"]), counts(row["states"])
