"""The job file: what a person writes, checked whole before anything is created.

Every error names the field's path, what is wrong, and the fix. Fields that later versions bring are unknown here and are
refused, never ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, Literal

import orjson
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from orchestrator.jobs import expansion, graph
from orchestrator.jobs.duration import Duration
from orchestrator.jobs.fits import PLAIN, Needs
from orchestrator.jobs.loader import Loader
from orchestrator.jobs.memory import Memory
from orchestrator.jobs.notify import MOST, Notify
from orchestrator.jobs.params import EnvName, EnvValue, Param
from orchestrator.jobs.schedule import Schedule


def _relative(pattern: str) -> str:
    """A pattern of paths below the work folder."""
    parts = pattern.split("/")
    if pattern.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\\" in pattern:
        raise ValueError("is not a path below the work folder; write one such as out/*.csv, without .. and a / at its ends")
    return pattern


NeedName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(\[\d{1,9}\])?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
TokenText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._$-]{1,100}$")]
Scalar = Annotated[str, StringConstraints(max_length=32_768, strict=True)] | bool | int | float
ArtifactPattern = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_relative)]
ExitCode = Annotated[int, Field(strict=True, ge=-255, lt=1 << 31)]
Slots = Annotated[int, Field(strict=True, ge=1, le=256)]
RetryReason = Literal["exit", "signal", "timed_out", "killed"]
Operation = Literal["deploy", "undeploy", "deploy_and_undeploy"]

MAX_TASKS = graph.MAX_TASKS
DEEPEST = 40
MOST_VALUES = 2_000_000
ITS_OWN = ("run", "artifacts", "artifacts_on")
"""What a job of one task may say without `tasks:`."""
SIZES = ("DEFAULT", "SMALL", "MEDIUM", "LARGE")
_OLD_KEYS = {
    "NODE_ACCESS_TOKEN": "token",
    "IAAS_NODE_SOURCE": "pool",
    "IAAS_INSTANCE_NB": "count",
    "IAAS_IMAGE_ID": "image",
    "IAAS_INSTANCE_TYPE": "instance_type",
    "IAAS_OPERATION": "operation",
}


class SpecError(Exception):
    """A job file that is refused. `problems` are (path, message) pairs, each message with its fix."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Infrastructure(Strict):
    """Machines asked for: so many, from this pool, of this kind, and when they come and go."""

    pool: Name | None = None
    count: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    image: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    instance_type: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    token: TokenText | None = None
    operation: Operation | None = None
    relaunches: Annotated[int, Field(strict=True, ge=0, le=1000)] | None = None

    def over(self, base: Infrastructure | None) -> Infrastructure:
        """Task value first, then the job's. The token is not inherited: it stands on the target itself."""
        if base is None or base is NOTHING:
            return self
        inherited = {k: v for k, v in base.model_dump(exclude_none=True).items() if k != "token"}
        return Infrastructure(**{**inherited, **self.model_dump(exclude_none=True)})


NOTHING = Infrastructure()
"""What a job or task asks for that names no machines."""


class Retry(Strict):
    """How often a task is tried, and after which ends. Failures of the infrastructure have a budget of their own."""

    attempts: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    delay: Duration = 0.0
    backoff: Annotated[float, Field(ge=1, le=10)] = 1.0
    on_exit_codes: list[ExitCode] | None = None
    never_on: list[ExitCode] = []
    on_reasons: list[RetryReason] | None = None
    never_on_reasons: list[RetryReason] = []
    infrastructure_attempts: Annotated[int, Field(strict=True, ge=1, le=100)] = 3


class Timeout(Strict):
    """TERM to the process group after `after`, KILL `grace` later."""

    after: Annotated[Duration, Field(gt=0)]
    grace: Duration = 10.0


class _Target(Strict):
    """What a job and a task have in common."""

    token: TokenText | None = None
    infrastructure: Infrastructure | None = None
    generic_information: dict[str, str | Annotated[int, Field(ge=0, lt=1 << 31)]] | None = None
    env: dict[EnvName, EnvValue] = {}
    retry: Retry | None = None
    timeout: Timeout | None = None
    labels: Annotated[list[Name], Field(max_length=50)] | None = None
    slots: Slots | None = None
    memory: Memory | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("timeout"), str | int | float):
            return {**data, "timeout": {"after": data["timeout"]}}
        return data

    @model_validator(mode="after")
    def _old_keys_fit(self) -> _Target:
        _from_old_keys(self.generic_information or {})
        return self

    @cached_property
    def asked(self) -> Infrastructure:
        """The infrastructure block with the old keys and `token:` merged in; the plain fields win."""
        if self.infrastructure is None and self.token is None and not self.generic_information:
            return NOTHING
        old = _from_old_keys(self.generic_information or {})
        own = self.infrastructure.model_dump(exclude_none=True) if self.infrastructure else {}
        merged = {**old, **own}
        if self.token is not None:
            merged["token"] = self.token
        return Infrastructure(**merged)


class TaskSpec(_Target):
    """One unit of work: a command, or the moment at which machines come (`deploy`) or go (`undeploy`)."""

    name: Name
    kind: Literal["run", "deploy", "undeploy"] = "run"
    run: Annotated[str, StringConstraints(min_length=1, max_length=65_536)] | None = None
    needs: list[NeedName] = []
    when: Annotated[str, StringConstraints(min_length=1)] | None = None
    artifacts: Annotated[list[ArtifactPattern], Field(max_length=100)] = []
    artifacts_on: Literal["success", "failure", "always"] = "success"
    array: Annotated[str | None, BeforeValidator(expansion.canonical)] = None
    matrix: dict[EnvName, Annotated[list[Scalar | dict[EnvName, Scalar]], Field(min_length=1)]] | None = None

    @model_validator(mode="after")
    def _fan_out_fits(self) -> TaskSpec:
        if self.array is not None and self.matrix is not None:
            raise ValueError("array and matrix exclude each other; an array is a matrix of one variable")
        if self.kind != "run" and (self.array is not None or self.matrix is not None):
            raise ValueError(f"a task of kind {self.kind} is done once; remove array and matrix")
        for name, values in (self.matrix or {}).items():
            known = set(self.matrix or {}) - {"exclude"}
            if name == "exclude" and not all(isinstance(value, dict) and set(value) <= known for value in values):
                raise ValueError(f"matrix.exclude lists combinations such as {{{min(known, default='OS')}: value}}")
            if name != "exclude" and any(isinstance(value, dict) for value in values):
                raise ValueError(f"matrix.{name} is a list of plain values")
        return self

    @model_validator(mode="after")
    def _command_fits_kind(self) -> TaskSpec:
        if self.kind == "run" and not self.run:
            raise ValueError("a task needs a command; add run: './command', or kind: deploy / undeploy")
        if self.kind != "run" and self.run:
            raise ValueError(f"a task of kind {self.kind} runs no command; remove run")
        if self.kind != "run" and self.artifacts:
            raise ValueError(f"a task of kind {self.kind} leaves no files; remove artifacts")
        return self


class JobSpec(_Target):
    """A whole job file, canonical: one task or many are always `tasks`."""

    name: Name
    client: Name
    description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    schedule: Schedule | None = None
    params: dict[EnvName, Param] = {}
    priority: Annotated[int, Field(strict=True, ge=-1000, le=1000)] = 0
    notify: Annotated[list[Notify], Field(max_length=MOST)] = []
    tasks: Annotated[list[TaskSpec], Field(min_length=1, max_length=MAX_TASKS)]

    @model_validator(mode="before")
    @classmethod
    def _one_task_may_stand_alone(cls, data: Any) -> Any:
        if isinstance(data, dict) and "run" in data:
            if "tasks" in data:
                raise ValueError("run and tasks exclude each other; move the command into a task")
            data = dict(data)
            its_own = {key: data.pop(key) for key in ITS_OWN if key in data}
            data["tasks"] = [{"name": data.get("name", "main"), **its_own}]
        return data

    @model_validator(mode="after")
    def _graph_holds(self) -> JobSpec:
        problems = [*graph.problems(self.tasks), *_infrastructure_problems(self)]
        if problems:
            raise SpecError(problems)
        return self

    @cached_property
    def document(self) -> dict[str, Any]:
        """The canonical document: short forms written out, defaults left out. It is a job file, too."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @cached_property
    def version(self) -> str:
        """SHA-256 of the canonical document, by which this very job file is known."""
        return hashlib.sha256(orjson.dumps(self.document, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def needs_of(self, task: TaskSpec) -> Needs:
        """What the task needs of its node: its own values first, then the job's."""
        if task.kind != "run":
            return PLAIN
        labels = self.labels if task.labels is None else task.labels
        if not labels and self.slots is self.memory is task.slots is task.memory is None:
            return PLAIN
        return Needs(task.slots or self.slots or 1, task.memory or self.memory, tuple(sorted(set(labels or ()))))

    def target(self, task: TaskSpec) -> Infrastructure:
        """What this task asks for: its own values first, then the job's; the token only if it stands on the task."""
        return task.asked.over(self.asked)


def parse(document: str | bytes | Mapping[str, Any]) -> JobSpec:
    """A checked job file from YAML or JSON text, or from a document already read. Raises SpecError."""
    if isinstance(document, str | bytes):
        document = read(document)
    if not isinstance(document, Mapping):
        raise SpecError([("$", "a job file is a mapping; begin with name:, client: and run: or tasks:")])
    problems: list[tuple[str, str]] = []
    if _weigh("$", document, problems, {}, 0) > MOST_VALUES:
        problems.append(("$", f"has more than {MOST_VALUES} values once its aliases are resolved; split the job"))
    if problems:
        raise SpecError(problems)
    try:
        return JobSpec.model_validate(dict(document))
    except ValidationError as error:
        raise SpecError(_problems(error)) from None


def asked_in(document: Mapping[str, Any]) -> Infrastructure:
    """What the job of a stored document asks for."""
    return _Target.model_validate({name: document[name] for name in _Target.model_fields.keys() & document.keys()}).asked


def read(text: str | bytes) -> Any:
    """The document in YAML or JSON text. Raises SpecError."""
    if text.lstrip()[:1] in ("{", b"{"):
        with suppress(ValueError, RecursionError):
            return json.loads(text)  # JSON may be indented with tabs, YAML may not
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "$"
        what = getattr(error, "problem", None) or "unreadable text"
        raise SpecError([(where, f"not valid YAML or JSON ({what}); mend it there")]) from error


def _weigh(path: str, value: object, problems: list[tuple[str, str]], seen: dict[int, int], depth: int) -> int:
    """How many values there are, aliases resolved. Notes what is nested too deeply, and text that no command line,
    environment or database can hold: NUL bytes and half surrogates."""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
        problems.append((path, "has a NUL byte or half a surrogate pair; remove it"))
    if not isinstance(value, Mapping | list | tuple):
        return 1
    if id(value) in seen:
        return seen[id(value)]
    if depth > DEEPEST:
        problems.append((path, f"is nested more than {DEEPEST} deep; a job file is flat"))
        return 1
    seen[id(value)] = 1
    total = 1
    if isinstance(value, Mapping):
        for key, item in value.items():
            total += _weigh(f"{path}, a key", key, problems, seen, depth + 1)
            name = key if isinstance(key, str) and key.isidentifier() else _short(key)
            total += _weigh(f"{path}.{name}", item, problems, seen, depth + 1)
    else:
        for i, item in enumerate(value):
            total += _weigh(f"{path}[{i}]", item, problems, seen, depth + 1)
    seen[id(value)] = total
    return total


def _from_old_keys(information: Mapping[str, str | int]) -> dict[str, Any]:
    """The six keys of the old policy, as the fields they mean. Raises ValueError naming a key that does not fit."""
    found: dict[str, Any] = {}
    for key, value in information.items():
        if key not in _OLD_KEYS:
            raise ValueError(f"generic_information.{key} is unknown; the keys are {', '.join(_OLD_KEYS)}")
        if key == "IAAS_INSTANCE_NB":
            if not re.fullmatch(r"[1-9]\d{0,3}", str(value)):
                raise ValueError(f"generic_information.{key} is {value!r}; write a number of machines such as 2")
            found["count"] = int(value)
        elif key == "IAAS_OPERATION":
            if str(value).lower() not in ("deploy", "undeploy", "deploy_and_undeploy"):
                raise ValueError(f"generic_information.{key} is {value!r}; write DEPLOY, UNDEPLOY or DEPLOY_AND_UNDEPLOY")
            found["operation"] = str(value).lower()
        else:
            # The old per-job token was written with the connector's own variable.
            found[_OLD_KEYS[key]] = re.sub(r"\$\{?PAS_JOB_ID\}?", "$JOB_ID", str(value))
    try:
        Infrastructure(**found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = next(key for key, field in _OLD_KEYS.items() if field == first["loc"][0])
        raise ValueError(f"generic_information.{key} does not fit: {first['msg']}") from None
    return found


def _infrastructure_problems(job: JobSpec) -> list[tuple[str, str]]:
    problems = _target_problems("infrastructure", job.asked, own=job.asked)
    if job.asked.count is not None and not any(target.asked.token for target in (job, *job.tasks)):
        problems.append(("infrastructure.token", "machines are asked for but carry no token; add token: NAME-$JOB_ID"))
    for i, task in enumerate(job.tasks):
        own, target = task.asked, job.target(task)
        path = f"tasks[{i}].infrastructure"
        if own != NOTHING:
            problems += _target_problems(path, target, own=own)
        if own.count is not None and not own.token and task.kind == "run":
            problems.append((f"{path}.token", "machines are asked for but carry no token; add token: to the task itself"))
        if task.kind == "deploy" and not own.token:
            problems.append((f"tasks[{i}].token", "a deploy task says for which token; add token: to it"))
        elif task.kind == "deploy" and target.pool is None and own.count is None:
            problems.append((f"{path}.pool", "a deploy task says from which pool; add pool: NAME and count: 1 or more"))
        elif task.kind == "deploy" and target.operation == "undeploy":
            problems.append((f"{path}.operation", "a deploy task cannot undeploy; write operation: deploy"))
        elif task.kind == "undeploy" and not (own.token or job.asked.token):
            problems.append((f"tasks[{i}].token", "an undeploy task says which token's machines go; add token: to it"))
    return problems


def _target_problems(path: str, target: Infrastructure, own: Infrastructure) -> list[tuple[str, str]]:
    problems = []
    deploys = own.token is not None and target.pool is not None and target.operation != "undeploy"
    if deploys and target.count is None:
        problems.append((f"{path}.count", "how many machines is not said; add count: 1 or more"))
    if own.count is not None and target.pool is None:
        problems.append((f"{path}.pool", "machines are asked for but from no pool; add pool: NAME"))
    for text in (own.token or "").split("$")[1:]:
        if not text.startswith("JOB_ID"):
            where = path.removesuffix("infrastructure") + "token"
            problems.append((where, f"{own.token!r} has an unknown variable; only $JOB_ID is replaced"))
    return problems


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for item in error.errors(include_url=False):
        path = _path(item["loc"])
        if item["type"] == "extra_forbidden":
            message = "unknown field; remove it or mend its spelling"
        elif item["type"] == "missing":
            message = f"is missing; add {path.rsplit('.', 1)[-1]}:"
        else:
            message = item["msg"].removeprefix("Value error, ") + f" (got {_short(item['input'])})"
        problems.append((path, message))
    return problems


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "$"


def _short(value: object) -> str:
    try:
        text = reprlib.repr(value)
    except ValueError:  # an int too long to be written
        text = f"a very large {type(value).__name__}"
    text = text.encode(errors="replace").decode()
    return text if len(text) <= 60 else text[:57] + "…"
