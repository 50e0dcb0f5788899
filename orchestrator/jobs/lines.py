"""Where in a job file's text a field stands, so that an error can name the line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from orchestrator.jobs.loader import Loader

Problem = tuple[str, str]
_step = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_mark = re.compile(r"line (\d+), column \d+")


def located(text: str, problems: Sequence[Problem]) -> list[tuple[int, str, str]]:
    """Problems with the line (from 1) of the deepest part of their path that is there, in the order of the file."""
    root = _composed(text)
    return sorted((_line(root, path), path, message) for path, message in problems)


def report(file: str, text: str, problems: Sequence[Problem]) -> list[str]:
    """`FILE:LINE: path: what is wrong; the fix`, one line each."""
    return [
        f"{file}:{line}: {'$' if _mark.fullmatch(path) else path}: {' '.join(message.split())}"
        for line, path, message in located(text, problems)
    ]


def _composed(text: str) -> Any:
    """The nodes of the text, which know their lines; None where it is not YAML. JSON is YAML but for its tabs."""
    try:
        return yaml.compose(text.replace("\t", " "), Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _line(root: Any, path: str) -> int:
    if mark := _mark.fullmatch(path):  # the text could not be read: the path is the place itself
        return int(mark[1])
    if root is None:
        return 1
    node, line = root, root.start_mark.line
    for index, name in _step.findall(path.removeprefix("$")):
        if isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
            node = node.value[int(index)]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode) and (found := [pair for pair in node.value if pair[0].value == name]):
            key, node = found[-1]
            line = key.start_mark.line
        else:
            break
    return int(line) + 1
