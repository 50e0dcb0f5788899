"""The graph of a job file: who waits for whom, and what is wrong with it; pure.

A task waits for its `needs`, and for every task that its `when:` asks about. A name stands for all elements of an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from orchestrator.jobs.expansion import MOST_EDGES, Element, count, elements, span, volume, written

if TYPE_CHECKING:
    from orchestrator.jobs.conditions import Condition
    from orchestrator.jobs.spec import TaskSpec

MAX_TASKS = 10_000
Problems = list[tuple[str, str]]


def waits_for(tasks: Sequence[TaskSpec]) -> dict[str, list[str]]:
    """For each task of the file the names that it waits for, each once, in the order in which they are written."""
    conditions = {task.name: _condition(task) for task in tasks}
    last = {name for name, condition in conditions.items() if condition is not None and condition.at_the_end}
    found = {}
    for task in tasks:
        names = list(task.needs)
        if (condition := conditions[task.name]) is not None:
            names += sorted(condition.tasks)
            if task.name in last:
                names += [other.name for other in tasks if other.name not in last]
        found[task.name] = list(dict.fromkeys(names))
    return found


def stored(tasks: Sequence[TaskSpec]) -> tuple[list[Element], list[tuple[int, int]]]:
    """All tasks as they are stored, and the edges between them: (waits, for) by their places in the list."""
    made = [element for task in tasks for element in elements(task)]
    if len(made) == 1:
        return made, []
    places: dict[str, list[int]] = {}
    for place, element in enumerate(made):
        places.setdefault(element.task.name, []).append(place)
        if element.values is not None:
            places[element.name] = [place]
    edges = []
    for name, names in waits_for(tasks).items():
        needed = dict.fromkeys(place for need in names for place in places[need])
        edges += [(place, need) for place in places[name] for need in needed]
    return made, edges


def problems(tasks: Sequence[TaskSpec]) -> Problems:
    """What is wrong, each with its path and its fix."""
    twice = [name for name, times in Counter(task.name for task in tasks).items() if times > 1]
    found = [("tasks", f"the name {name!r} stands twice; give each task its own") for name in twice]
    found += _too_many(tasks)
    known = {task.name: task for task in tasks}
    found += [
        (f"tasks[{i}].needs[{j}]", f"no task is named {need!r}; the tasks are {some(known)}")
        for i, task in enumerate(tasks)
        for j, need in enumerate(task.needs)
        if not _there(need, known)
    ]
    found += [problem for i, task in enumerate(tasks) for problem in _of_condition(f"tasks[{i}].when", task, known)]
    if found:
        return found
    needed = waits_for(tasks)
    try:
        TopologicalSorter({name: [written(need) for need in names] for name, names in needed.items()}).prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1])
        return [("tasks", f"needs go in a circle: {circle}; remove one of them")]
    return _too_many_edges(tasks, needed)


def some(names: Iterable[str]) -> str:
    """The first few, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")


def _condition(task: TaskSpec) -> Condition | None:
    if task.when is None:
        return None
    from orchestrator.jobs.conditions import parse  # for those who use them

    return parse(task.when)


def _of_condition(path: str, task: TaskSpec, known: dict[str, TaskSpec]) -> Iterator[tuple[str, str]]:
    if task.when is None:
        return
    from orchestrator.jobs.conditions import ConditionError, parse

    try:
        condition = parse(task.when)
    except ConditionError as error:
        yield path, str(error)
        return
    for name in sorted(condition.tasks):
        if not _there(name, known):
            yield path, f"no task is named {name!r}; the tasks are {some(known)}; of another job write ok('JOB', 'TASK')"
        elif name in condition.single and name in known and (known[name].array or known[name].matrix) is not None:
            yield path, f"{name!r} is an array and has no one result; name an element such as {name}[0]"


def _there(name: str, known: dict[str, TaskSpec]) -> bool:
    if name in known:
        return True
    task = known.get(written(name))
    if task is None or (task.array is None and task.matrix is None):
        return False
    index = int(name[len(task.name) + 1 : -1])
    return index in (span(task.array) if task.array is not None else range(count(task)))


def _too_many(tasks: Sequence[TaskSpec]) -> Problems:
    total = 0
    for i, task in enumerate(tasks):
        size = volume(task.matrix) if task.matrix is not None else count(task)
        if size > MAX_TASKS:
            what = "matrix" if task.matrix is not None else "array"
            return [(f"tasks[{i}].{what}", f"makes {size} tasks; a job has at most {MAX_TASKS}, so split it")]
        total += (size := count(task))
        if not size:
            return [(f"tasks[{i}].matrix", "excludes all its combinations; leave some")]
    return [("tasks", f"make {total} tasks; a job has at most {MAX_TASKS}, so split it")] if total > MAX_TASKS else []


def _too_many_edges(tasks: Sequence[TaskSpec], needed: dict[str, list[str]]) -> Problems:
    sizes = {task.name: count(task) for task in tasks}
    for i, task in enumerate(tasks):
        edges = sizes[task.name] * sum(sizes.get(name, 1) for name in needed[task.name])
        if edges > MOST_EDGES:
            fix = "put a task between them that needs the one and is needed by the other"
            return [(f"tasks[{i}].needs", f"come to {edges} pairs of tasks, {MOST_EDGES} are the most; {fix}")]
    return []
