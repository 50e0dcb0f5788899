"""The job file as JSON Schema, for editors: they complete its fields and mark what the master would refuse.

Made from the models themselves; only the short forms, which the models write out before they look, are added here.
"""

from __future__ import annotations

from typing import Any

from orchestrator.jobs.schedule import Schedule
from orchestrator.jobs.spec import ITS_OWN, JobSpec

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DURATION: Schema = {
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1e9},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhd]?\s*$"},
    ],
    "description": "seconds, or a number with s, m, h or d, such as 15m",
}


def job_schema() -> Schema:
    """The schema of one job file. What only the graph tells (circles, names that nobody has) it cannot."""
    schema = JobSpec.model_json_schema()
    definitions: Schema = schema["$defs"]
    _allow(definitions, "Param", {"type": "string", "maxLength": 32_768, "description": "short for {default: …}"})
    _allow(definitions, "Schedule", {"enum": ["now", "never"]})
    _allow(definitions, "Timeout", DURATION)
    _plain_defaults(definitions["Param"]["anyOf"][-1])
    for name in Schedule.model_fields.keys() & {"daily", "weekly", "monthly"}:
        _one_or_many(definitions["Schedule"]["anyOf"][-1]["properties"][name])
    for place in (schema, *(each.get("anyOf", [each])[-1] for each in definitions.values())):
        for name in place.get("properties", {}).keys() & {"delay", "after", "grace"}:
            place["properties"][name] = {**DURATION, "title": place["properties"][name].get("title", name)}
    task = definitions["TaskSpec"]["properties"]
    task["array"]["anyOf"].insert(0, {"type": "integer", "minimum": 1})
    schema["properties"] |= {name: task[name] for name in ITS_OWN}
    schema["required"].remove("tasks")
    schema["oneOf"] = [{"required": ["run"]}, {"required": ["tasks"]}]
    return {"$schema": DIALECT, **schema, "title": "Job file", "description": "A job of Elastic Orchestrator."}


def _allow(definitions: Schema, name: str, short: Schema) -> None:
    """Beside the mapping, its short form."""
    definitions[name] = {"anyOf": [short, definitions[name]]}


def _plain_defaults(param: Schema) -> None:
    """The default of a number or a boolean may be one."""
    param["properties"]["default"]["anyOf"] += [{"type": "number"}, {"type": "boolean"}]


def _one_or_many(field: Schema) -> None:
    listed = next(each for each in field["anyOf"] if each.get("type") == "array")
    field["anyOf"].insert(0, listed["items"])
