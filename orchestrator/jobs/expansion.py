"""Fan-out: a task with `matrix:` or `array:` becomes one task for each of its elements, `name[0]`, `name[1]`, …; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.jobs.spec import TaskSpec

INDEX = "ORCHESTRATOR_ARRAY_INDEX"
SIZE = "ORCHESTRATOR_ARRAY_SIZE"
MOST_EDGES = 200_000
_RANGE = re.compile(r"(0|[1-9]\d{0,8})-(0|[1-9]\d{0,8})")


@dataclass(frozen=True, slots=True)
class Element:
    """One task of a job as it is stored. `values` are the variables that make it this one of its array."""

    name: str
    task: TaskSpec
    values: Mapping[str, str] | None = None


def elements(task: TaskSpec) -> list[Element]:
    """What a task of the job file stands for: itself, or the elements of its array or matrix in order."""
    if task.array is None and task.matrix is None:
        return [Element(task.name, task)]
    size = count(task)
    if task.array is not None:
        numbered: Iterable[tuple[int, Mapping[str, str]]] = ((i, {}) for i in span(task.array))
    else:
        numbered = enumerate(combinations(task.matrix or {}))
    return [Element(f"{task.name}[{i}]", task, {**values, INDEX: str(i), SIZE: str(size)}) for i, values in numbered]


def count(task: TaskSpec) -> int:
    """How many tasks it stands for, without making them where that is to be had."""
    if task.array is not None:
        return len(span(task.array))
    if task.matrix is None:
        return 1
    if "exclude" in task.matrix:
        return sum(1 for _ in combinations(task.matrix))
    return volume(task.matrix)


def volume(matrix: Mapping[str, Sequence[Any]]) -> int:
    """The size of the product, exclusions not counted."""
    size = 1
    for name, values in matrix.items():
        size *= 1 if name == "exclude" else len(values)
    return size


def canonical(array: object) -> object:
    """`array: 100` as `0-99`. Raises ValueError for what is neither that nor a first and a last index."""
    if isinstance(array, int) and not isinstance(array, bool) and array > 0:
        array = f"0-{array - 1}"
    match = _RANGE.fullmatch(array) if isinstance(array, str) else None
    if match is None or int(match.group(1)) > int(match.group(2)):
        raise ValueError('an array is a number of elements such as 100, or its first and last index such as "0-99"')
    return array


def span(array: str) -> range:
    """The indices of `0-99`."""
    first, _, last = array.partition("-")
    return range(int(first), int(last) + 1)


def combinations(matrix: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, str]]:
    """The product of the lists, the last one turning fastest, without what `exclude` names."""
    names = [name for name in matrix if name != "exclude"]
    excluded = [{name: text(value) for name, value in each.items()}.items() for each in matrix.get("exclude", ())]
    for values in product(*([text(value) for value in matrix[name]] for name in names)):
        one = dict(zip(names, values, strict=True))
        if not any(each <= one.items() for each in excluded):
            yield one


def text(value: object) -> str:
    """A value of YAML or JSON as a variable of the environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def written(name: str) -> str:
    """The name in the job file of a task by this name: that of an element without its index."""
    return name[: name.rindex("[")] if name.endswith("]") and "[" in name else name
