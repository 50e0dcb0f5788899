"""Arrays and matrices: what a task of the file stands for."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.expansion import count, elements, written
from orchestrator.jobs.graph import stored
from orchestrator.jobs.spec import JobSpec, parse


def job(*tasks: dict[str, Any]) -> JobSpec:
    return parse({"name": "j", "client": "acme", "tasks": [{"run": "true", **task} for task in tasks]})


def test_an_array_counts_from_0_or_over_a_range() -> None:
    three, from_8 = job({"name": "a", "array": 3}, {"name": "b", "array": "8-10"}).tasks
    assert [each.name for each in elements(three)] == ["a[0]", "a[1]", "a[2]"]
    assert [each.name for each in elements(from_8)] == ["b[8]", "b[9]", "b[10]"]
    assert elements(from_8)[0].values == {"ORCHESTRATOR_ARRAY_INDEX": "8", "ORCHESTRATOR_ARRAY_SIZE": "3"}


def test_a_matrix_is_the_product_without_what_it_excludes() -> None:
    matrix = {"OS": ["deb", "alp"], "V": [1, 2.5, True], "exclude": [{"OS": "alp", "V": 1}, {"V": True}]}
    made = elements(job({"name": "a", "matrix": matrix}).tasks[0])
    assert [(each.name, each.values["OS"], each.values["V"]) for each in made if each.values] == [
        ("a[0]", "deb", "1"), ("a[1]", "deb", "2.5"), ("a[2]", "alp", "2.5"),
    ]  # fmt: skip
    assert made[0].values and made[0].values["ORCHESTRATOR_ARRAY_SIZE"] == "3"


def test_a_name_in_needs_or_when_means_all_elements() -> None:
    tasks = [{"name": "a", "array": 2}, {"name": "b", "needs": ["a[1]"]}, {"name": "c", "needs": ["b"], "when": "ok(a)"}]
    made, edges = stored(job(*tasks, {"name": "z", "when": "job_end()"}).tasks)
    names = [each.name for each in made]
    assert sorted((names[waits], names[need]) for waits, need in edges) == [
        ("b", "a[1]"), ("c", "a[0]"), ("c", "a[1]"), ("c", "b"),
        ("z", "a[0]"), ("z", "a[1]"), ("z", "b"), ("z", "c"),
    ]  # fmt: skip


_values = st.lists(st.sampled_from(["x", "y", 1, 2, True]), min_size=1, max_size=3, unique_by=str)
_matrix = st.dictionaries(st.sampled_from(["A", "B", "C"]), _values, min_size=1)


@given(matrix=_matrix, data=st.data())
def test_any_matrix_comes_to_what_sets_say(matrix: dict[str, Any], data: st.DataObject) -> None:
    one = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in matrix.items()})
    exclude = data.draw(st.lists(one.filter(bool), max_size=2))
    whole = {**matrix, "exclude": exclude} if exclude else matrix
    try:
        task = job({"name": "a", "matrix": whole}).tasks[0]
    except Exception as error:
        assert "leave some" in str(error)
        return
    made = elements(task)
    assert len(made) == count(task) == len({tuple(sorted((each.values or {}).items())) for each in made})
    for each in made:
        assert written(each.name) == "a"
        values = each.values or {}
        assert all(values[name] in [str(v).lower() if v is True else str(v) for v in matrix[name]] for name in matrix)
        excluded = [{name: str(v).lower() if v is True else str(v) for name, v in cell.items()} for cell in exclude]
        assert not any(cell.items() <= values.items() for cell in excluded)
