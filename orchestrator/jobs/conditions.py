"""`when:` conditions: small expressions over what tasks have come to. Pure: the facts are handed in.

An expression is checked at submission against a short list of what may stand in it; later a library (simpleeval) evaluates
it, with our functions only. What it asks about can be told without evaluating it: tasks and jobs are named plainly, never
computed. What is not known (the exit status of a task that never ran) is neither less nor more than anything.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.model.states import TaskState

LONGEST = 1000  # characters
DEEPEST = 20

_BY_TASK = ("ok", "err", "finished", "result", "output")
_ARGUMENTS = {
    "ok": "task", "err": "task", "finished": "task", "result": "task", "output": 'task, "KEY"',
    "job_end": '"job" or nothing', "param": '"NAME"', "number": "text", "before": '"HH:MM", "Zone/Name"',
    "after": '"HH:MM", "Zone/Name"',
}  # fmt: skip
_ALLOWED = (
    ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.In, ast.NotIn, ast.Call, ast.Constant, ast.Tuple, ast.List, ast.Load,
)  # fmt: skip
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class ConditionError(Exception):
    """An expression that cannot be: the message says what is wrong and how to mend it."""


@dataclass(frozen=True, slots=True)
class TaskFact:
    """How one task has ended."""

    state: str
    exit_code: int | None = None
    outputs: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are decided by. A name that several tasks share (an array's) has a fact for each of them."""

    now: datetime
    submitted_at: datetime
    tasks: Mapping[str, Sequence[TaskFact]] = field(default_factory=dict)
    others: Mapping[tuple[str, str], Sequence[TaskFact]] = field(default_factory=dict)  # by job and task
    ends: Mapping[str, str] = field(default_factory=dict)  # the last state of other jobs
    outcome: str = "succeeded"  # of this job, by the tasks that have ended
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it holds, and what of it was looked at, in words."""

    holds: bool
    told: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A checked expression and all that it asks about."""

    text: str
    tree: ast.expr
    tasks: frozenset[str]  # of its own job
    single: frozenset[str]  # those of which one value is wanted
    others: frozenset[tuple[str, str]]
    jobs: frozenset[str]
    at_the_end: bool  # job_end(): once all other tasks have ended


@lru_cache(maxsize=512)
def parse(text: str) -> Condition:
    """Raises ConditionError."""
    if len(text) > LONGEST:
        raise ConditionError(f"has {len(text)} characters, {LONGEST} are the most; put the rest into a task's exit status")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = getattr(error, "msg", None) or "too deep"
        raise ConditionError(f"is no expression ({what}); write one such as ok(extract) and result(load) == 0") from None
    reader = _Reader()
    tree = reader.read(tree, 0)
    of_tasks = {name for _, job, name in reader.asked if job is None}
    single = {name for function, job, name in reader.asked if job is None and function in ("result", "output")}
    others = {(job, name) for _, job, name in reader.asked if job is not None}
    return Condition(
        text, tree, frozenset(of_tasks), frozenset(single), frozenset(others), frozenset(reader.jobs), reader.at_the_end
    )


def evaluate(text: str, facts: Facts) -> Decision:
    """Raises ConditionError for what turns out to be nonsense: comparing a text with a number."""
    from simpleeval import EvalWithCompoundTypes, InvalidExpression  # for those who use conditions

    condition = parse(text)
    told: list[str] = []
    functions = {name: _telling(name, function, told) for name, function in _functions(facts).items()}
    evaluator = EvalWithCompoundTypes(operators=_OPERATORS, functions=functions, names={})
    try:
        holds = bool(evaluator.eval(text, previously_parsed=condition.tree))
    except (InvalidExpression, TypeError, ValueError) as error:
        looked_at = f" ({', '.join(told)})" if told else ""
        raise ConditionError(f"cannot be decided: {error}{looked_at}; number(…) makes a number of a text") from None
    return Decision(holds, ", ".join(dict.fromkeys(told)))


class _Reader:
    """Checks an expression and rewrites the names of tasks in it to texts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str]] = []  # function, job, task
        self.jobs: set[str] = set()
        self.at_the_end = False

    def read(self, node: Any, depth: int) -> Any:
        if depth > DEEPEST:
            raise ConditionError(f"is nested more than {DEEPEST} deep; put a part of it into a task of its own")
        if isinstance(node, ast.Name):
            raise ConditionError(f"has the unknown name {node.id!r}; write ok({node.id}) or param('{node.id}')")
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__
            raise ConditionError(f"may not have {what} in it; use and, or, not, comparisons and {_names()}")
        if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | None):
            raise ConditionError(f"may not have {node.value!r} in it; write texts and numbers")
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, name, [self.read(item, depth + 1) for item in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.read(value, depth + 1))
        return node

    def _call(self, node: ast.Call, depth: int) -> ast.Call:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _ARGUMENTS:
            raise ConditionError(f"calls the unknown function {name or 'there'!r}; there are {_names()}")
        arguments = len(node.args)
        if node.keywords or any(isinstance(each, ast.Starred) for each in node.args):
            raise ConditionError(f"{name} takes plain arguments; write {name}({_ARGUMENTS[name]})")
        if name == "number" and arguments == 1:
            node.args = [self.read(node.args[0], depth + 1)]
            return node
        texts = [_plain(each, name) for each in node.args]
        node.args = [ast.Constant(text) for text in texts]
        if not self._fits(name, texts):
            raise ConditionError(f"{name} has arguments that do not fit; write {name}({_ARGUMENTS[name]})")
        return node

    def _fits(self, name: str, texts: list[str]) -> bool:
        if name in _BY_TASK:
            key = 1 if name == "output" else 0
            of = texts[: len(texts) - key]
            if len(of) not in (1, 2) or len(texts) <= key:
                return False
            self.asked.append((name, of[0] if len(of) == 2 else None, of[-1]))
        elif name == "job_end":
            self.jobs.update(texts)
            self.at_the_end |= not texts
            return len(texts) <= 1
        elif name in ("before", "after"):
            return len(texts) in (1, 2) and _CLOCK.fullmatch(texts[0]) is not None and all(map(_zone, texts[1:]))
        else:
            return len(texts) == 1 and name == "param"
        return True


def _plain(node: ast.expr, function: str) -> str:
    """The text of a name, written with or without quotes; `shard[3]` is a name too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return node.id
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and isinstance(node.slice, ast.Constant)
        and type(node.slice.value) is int
    ):
        return f"{node.value.id}[{node.slice.value}]"
    written = f"{ast.unparse(node):.40}"
    raise ConditionError(f"{function} wants plain names, not {written}; write a name such as 'load-2' in quotes")


def _functions(facts: Facts) -> dict[str, Callable[..., Any]]:
    def of(*names: str) -> Sequence[TaskFact]:
        return facts.tasks.get(names[0], ()) if len(names) == 1 else facts.others.get((names[0], names[1]), ())

    def ok(*names: str) -> bool:
        return bool(of(*names)) and all(task.state == TaskState.SUCCEEDED for task in of(*names))

    def err(*names: str) -> bool:
        return any(task.state == TaskState.FAILED for task in of(*names))

    def finished(*names: str) -> bool:
        return bool(of(*names)) and all(task.state in (TaskState.SUCCEEDED, TaskState.FAILED) for task in of(*names))

    def result(*names: str) -> int | None:
        found = of(*names)
        return found[0].exit_code if len(found) == 1 else None

    def output(*names: str) -> str | None:
        found = of(*names[:-1])
        return (found[0].outputs or {}).get(names[-1]) if len(found) == 1 else None

    def before(clock: str, zone: str = "UTC") -> bool:
        return facts.now < first_at(clock, zone, facts.submitted_at)

    return {
        "ok": ok,
        "err": err,
        "finished": finished,
        "result": result,
        "output": output,
        "before": before,
        "after": lambda *at: not before(*at),
        "job_end": lambda job=None: facts.outcome if job is None else facts.ends.get(job),
        "param": facts.params.get,
        "number": _number,
    }


def first_at(clock: str, zone: str, since: datetime) -> datetime:
    """The first moment after `since` at which clocks in that zone show `HH:MM`."""
    local = since.astimezone(ZoneInfo(zone))
    at = local.replace(hour=int(clock[:2]), minute=int(clock[3:]), second=0, microsecond=0)
    return (at if at > local else at + timedelta(days=1)).astimezone(UTC)


def _number(text: Any) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _zone(name: str) -> bool:
    try:
        return bool(ZoneInfo(name))
    except (OSError, ValueError, KeyError):  # KeyError: there is no such zone
        return False


def _telling(name: str, function: Callable[..., Any], told: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        value = function(*arguments)
        if name != "number":
            told.append(f"{name}({', '.join(map(str, arguments))}) = {_in_words(value)}")
        return value

    return call


def _in_words(value: object) -> str:
    if value is None:
        return "unknown"
    return str(value).lower() if isinstance(value, bool) else f"{value!s:.100}"


def _names() -> str:
    return ", ".join(f"{name}()" for name in _ARGUMENTS)


def _known(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda left, right: left is not None and right is not None and compare(left, right)


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, items: operator.contains(items, item),
    ast.NotIn: lambda item, items: not operator.contains(items, item),
    **{kind: _known(compare) for kind, compare in (
        (ast.Lt, operator.lt), (ast.LtE, operator.le), (ast.Gt, operator.gt), (ast.GtE, operator.ge),
    )},
}  # fmt: skip
