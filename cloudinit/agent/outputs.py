"""The output file: what a task says to later tasks of its job. The agent reads it once, when the command has ended.

Lines of `KEY=value`; a value of several lines stands between `KEY<<END` and a line `END`, whatever word END is. The last of
two equal keys counts. A line that is none of this is told of and left out; the others count.
"""

import re

import notes

LIMIT = 16 << 10  # bytes: the journal has kept room for it since the order was accepted

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_UNFIT = re.compile("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def read(path):
    # type: (str) -> dict | None
    """What goes up with the result: `values`, and `trouble` that says what was left out and why.

    None where the task wrote no such file."""
    try:
        content = notes.read(path, LIMIT)
    except ValueError as error:
        return {"values": {}, "trouble": str(error)}
    return None if content is None else _understood(content.decode(errors="surrogateescape"))


def _understood(content):
    # type: (str) -> dict
    values, wrong = {}, []  # type: dict, list
    lines = [line.rstrip("\r") for line in content.split("\n")]
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.strip():
            continue
        key, sign, value = _split(line)
        if sign == "<<":
            end = _end(lines, at, value)
            if end is None:
                wrong.append("line %d: no line %.40r follows" % (at, value))
                break
            value, at = "\n".join(lines[at:end]), end + 1
        if not sign:
            wrong.append("line %d is not KEY=value" % at)
        elif not _KEY.fullmatch(key):
            wrong.append("line %d: %.40r is no name of a variable" % (at, key))
        elif _UNFIT.search(value):
            wrong.append("%s has bytes that no text has" % key)
        else:
            values[key] = value
    told = {"values": values}  # type: dict
    if wrong:
        more = ", and %d more" % (len(wrong) - 3) if len(wrong) > 3 else ""
        told["trouble"] = ascii("; ".join(wrong[:3]) + more)[1:-1][:300]
    return told


def _split(line):
    # type: (str) -> tuple
    """(key, "=" or "<<", the rest); no sign where the line is neither."""
    signs = [(line.index(sign), sign) for sign in ("=", "<<") if sign in line]
    if not signs:
        return line, "", ""
    at, sign = min(signs)
    return line[:at], sign, line[at + len(sign) :]


def _end(lines, start, word):
    # type: (list, int, str) -> int | None
    for at in range(start, len(lines)):
        if word and lines[at] == word:
            return at
    return None
