"""Where an account's address and keys are: the environment, or a profile of CloudMonkey's own file.

They are only referred to by the settings, and never copied into the database.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..base import Misconfigured, Unauthorised


@dataclass(frozen=True, slots=True)
class Account:
    """An API's URL (`https://cloud.example.org/client/api`) and the keys of one of its users."""

    url: str
    api_key: str
    secret_key: str = field(repr=False)


def find_account(
    url: str | None, profile: str | None, config_file: str, environment: Mapping[str, str] = os.environ
) -> Account:
    """The keys of the named profile; without a name those of the environment, else of the file's current profile.

    Variables: CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY, CLOUDSTACK_SECRET. File: CloudMonkey's, whose sections have url, apikey
    and secretkey. Raises Misconfigured or Unauthorised telling what is missing where.
    """
    if profile is None and environment.get("CLOUDSTACK_KEY"):
        found: Mapping[str, str] = {
            "url": environment.get("CLOUDSTACK_ENDPOINT", ""),
            "apikey": environment["CLOUDSTACK_KEY"],
            "secretkey": environment.get("CLOUDSTACK_SECRET", ""),
        }
        where = "the environment (CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY, CLOUDSTACK_SECRET)"
    else:
        found, where = _from_file(Path(config_file).expanduser(), profile)
    address = url or found.get("url", "")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(f"the URL of the CloudStack API is {address!r} in {where}: set url, as https://host/client/api")
    if not found.get("apikey") or not found.get("secretkey"):
        raise Unauthorised(f"{where} has no apikey and secretkey: create the user's keys in CloudStack and put them there")
    return Account(address, found["apikey"], found["secretkey"])


def _from_file(path: Path, profile: str | None) -> tuple[Mapping[str, str], str]:
    config = configparser.ConfigParser(interpolation=None)
    try:
        read = config.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not a CloudMonkey configuration: {error}") from error
    if not read:
        raise Unauthorised(f"no credentials: {path} cannot be read, and CLOUDSTACK_KEY is not in the environment")
    name = profile or config.get("core", "profile", fallback="") or ""
    if not config.has_section(name):
        there = ", ".join(section for section in config.sections() if section != "core") or "none"
        raise Misconfigured(f"{path} has no profile {name!r}; there are: {there}")
    return config[name], f"profile {name} of {path}"
