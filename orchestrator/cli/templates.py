"""`orchestrator template …`: schema, validate, commit, list, show, diff, rollback, launch, delete."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.render import ago, at, fields, table
from orchestrator.cli.session import Session, command, say, with_complaints
from orchestrator.cli.submit import Key, Wait, create, params_of
from orchestrator.cli.waiting import OnInterruptOption, Quiet, WaitTimeout

app = typer.Typer(no_args_is_help=True, help="Templates: named job files whose every version is kept.")
Template = Annotated[str, typer.Argument(metavar="TEMPLATE", help="its name or its id")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="its number, or the beginning of its SHA-256")]
File = Annotated[str, typer.Argument(metavar="FILE", help="job file, YAML or JSON; - for standard input")]
VERSIONS = 20


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of job files, for editors. No master is asked."""
    from orchestrator.jobs.schema import job_schema

    print(json.dumps(job_schema(), indent=2, ensure_ascii=False))


@app.command("validate")
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="job files, YAML or JSON; - for standard input")],
) -> None:
    """Check job files; no master is asked. Exit status: 0 valid, 2 not, with a line for each error."""

    def work() -> None:
        from orchestrator.cli.client import Complaint
        from orchestrator.cli.jobfile import JobFile
        from orchestrator.jobs.spec import SpecError, parse

        wrong: list[str] = []
        for name in files:
            try:
                file = JobFile(name)
                try:
                    parse(file.data)
                except SpecError as error:
                    raise file.mistakes(error.problems) from error
            except Complaint as complaint:
                wrong += complaint.lines
        for line in wrong:
            say(line)
        if wrong:
            raise typer.Exit(2)

    with_complaints(work)


@command(app, "commit")
def commit(
    session: Session,
    file: File,
    note: Annotated[str, typer.Option("--note", "-m", help="why, for those who read the history")] = "",
) -> None:
    """Commit a job file as the next version of the template of its name."""
    from orchestrator.cli.jobfile import JobFile

    job_file = JobFile(file)
    with job_file.told():
        done = session.api.post("templates", {"file": job_file.text, "note": note})
    what = "was committed" if done["created"] else "says the same already: nothing was committed"
    told = f"version {done['number']} of template {done['name']} ({done['sha256'][:12]}) {what}"
    session.show(done, lambda: print(told))


@command(app, "list")
def list_templates(
    session: Session,
    client: Annotated[str | None, typer.Option(help="only this client's")] = None,
    limit: Annotated[int, typer.Option(min=1, help="most templates shown")] = 50,
) -> None:
    """Templates with their current versions, newest first."""
    page = session.api.page("templates", limit, client=client)
    columns = ("id", "name", "client", "version", "sha256", "schedule", "committed", "by", "note")
    none = "There are no templates; `orchestrator template commit FILE -m NOTE` makes one."
    session.show(page, lambda: table(columns, map(_template_row, page["items"]), none))


@command(app, "show")
def show(
    session: Session,
    template: Template,
    version: Annotated[str | None, typer.Option(help="print this version's job file as it was written")] = None,
) -> None:
    """One template with its latest versions (in JSON: `versions`); or the job file of one version."""
    path = template_path(template)
    if version is not None:
        detail = session.api.get(f"{path}/versions/{_version(version)}")
        session.show(detail, lambda: print(detail["source"], end=""))
        return
    found = session.api.get(path)
    versions = session.api.page(f"{path}/versions", VERSIONS)["items"]

    def text() -> None:
        names = ("id", "name", "client", "description", "schedule")
        fields([(name, _plain(found[name])) for name in names])
        print()
        rows = [(_marked(found, each), *_version_row(each)) for each in versions]
        table(("version", "sha256", "committed", "by", "note"), rows, "It has no versions.")

    session.show({**found, "versions": versions}, text)


@command(app, "diff")
def diff(
    session: Session,
    template: Template,
    before: Annotated[str | None, typer.Argument(help="a version; default: the one before AFTER")] = None,
    after: Annotated[str | None, typer.Argument(help="a version; default: the current one")] = None,
) -> None:
    """How two versions differ."""
    found = session.api.get(f"{template_path(template)}/diff", before=before, after=after)
    session.show(found, lambda: print(found["diff"], end=""))


@command(app, "rollback")
def rollback(session: Session, template: Template, version: Version) -> None:
    """Make an earlier version the current one. None is lost: a later one can be the current one again."""
    found = session.api.post(f"{template_path(template)}/rollback", {"version": version})
    told = f"template {found['name']} is at version {found['number']} ({found['sha256'][:12]})"
    session.show(found, lambda: print(told))


@command(app, "launch")
def launch(
    session: Session,
    template: Template,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a parameter; wins over the template's and the client's")
    ] = None,
    version: Annotated[str | None, typer.Option(help="its number, or the beginning of its SHA-256")] = None,
    wait: Wait = False,
    key: Key = None,
    quiet: Quiet = False,
    wait_timeout: WaitTimeout = None,
    on_interrupt: OnInterruptOption = None,
) -> None:
    """Make a job of it now and print its number; the rest is as with `submit`."""

    def document() -> dict[str, Any]:
        return {"params": params_of(param or []), **({"version": version} if version is not None else {})}

    how = (quiet, wait_timeout, on_interrupt)
    create(session, f"{template_path(template)}/launch", document, key, wait=wait, how=how)


@command(app, "delete")
def delete(session: Session, template: Template) -> None:
    """List and launch it no more. Its versions stay for the jobs that name them; a commit brings it back."""
    found = session.api.delete(template_path(template))
    session.show(found, lambda: print(f"template {found['name']} is deleted"))


def template_path(ref: str) -> str:
    """Where the API has this template."""
    if not ref:
        raise typer.BadParameter("a template has a name; see `orchestrator template list`")
    return f"templates/{quote(ref, safe='')}"


def _version(ref: str) -> str:
    return quote(ref, safe="") or "0"


def _template_row(row: dict[str, Any]) -> tuple[object, ...]:
    number, sha256, *rest = row["number"], row["sha256"][:12], _plain(row["schedule"]), ago(row["committed_at"])
    return row["id"], row["name"], row["client"], number, sha256, *rest, row["committed_by"], row["note"]


def _version_row(row: dict[str, Any]) -> tuple[object, ...]:
    return row["sha256"][:12], at(row["committed_at"]), row["committed_by"], row["note"]


def _marked(template: dict[str, Any], version: dict[str, Any]) -> str:
    return f"{version['number']} *" if version["number"] == template["number"] else str(version["number"])


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value
