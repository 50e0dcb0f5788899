"""The control file: what a job asks for the time after this attempt. The agent reads it once, when the job has ended.

A JSON object, `{"retry": "now" | "15m" | "never", "params": {"NAME": "value"}}`, either key alone too. What it means for
the task is the master's to judge; here it is only seen to that it is what it claims to be.
"""

import json
import re

import notes

LIMIT = 4096  # bytes: the journal has kept room for it since the order was accepted

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def read(path):
    # type: (str) -> dict | None
    """What goes up with the result: `never`, `retry_after_s`, `params`, or `trouble` for a file that is none of these.

    None where the job wrote no such file."""
    try:
        content = notes.read(path, LIMIT)
        return None if content is None else _understood(content)
    except (ValueError, RecursionError) as error:
        return {"trouble": str(error)[:200]}


def _understood(content):
    # type: (bytes) -> dict
    try:
        asked = json.loads(content.decode())
    except ValueError:
        raise ValueError('is not JSON; write {"retry": "15m"}') from None
    if not isinstance(asked, dict) or not asked or set(asked) - {"retry", "params"}:
        raise ValueError('must be an object with the keys "retry" and "params", or one of them')
    told = {}  # type: dict
    if "retry" in asked:
        told.update(_retry(asked["retry"]))
    if "params" in asked:
        told["params"] = _params(asked["params"])
    return told


def _retry(value):
    # type: (object) -> dict
    if value == "never":
        return {"never": True}
    match = _DURATION.fullmatch("0" if value == "now" else str(value))
    if match is None or isinstance(value, bool):
        raise ValueError('retry must be "now", "never" or a duration such as "15m"')
    return {"retry_after_s": min(float(match.group(1)) * _UNITS[match.group(2)], 1e9)}


def _params(value):
    # type: (object) -> dict
    """No process could be started with other names or values, and that would look like the machine's fault."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("params must be an object of names and texts")
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise ValueError("params has a name that no environment variable can have: %.40r" % name)
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("params.%s has a NUL byte or half a surrogate pair" % name)
    return value
