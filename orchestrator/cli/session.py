"""What every command has in common: where the master is, who calls, how to answer, and the exit status.

0 done   1 the audit or the doctor found trouble   2 refused, or used wrongly   4 no master answers   130 Ctrl-C
Where a job is waited for its own status takes their place (`cli.waiting`).
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec
from urllib.parse import quote, urlsplit

import typer

if TYPE_CHECKING:
    from orchestrator.cli.client import Client
    from orchestrator.settings import Settings

P = ParamSpec("P")
ADMIN_FILE = "admin.token"  # as `serve` writes it in data_dir
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


ConfigFile = Annotated[Path | None, typer.Option("--config", help="settings file; default: orchestrator.toml here")]
_COMMON: dict[str, Any] = {
    "output": Annotated[Output, typer.Option("--output", "-o", help="for people, or the API's own document")],
    "url": Annotated[
        str | None, typer.Option("--url", envvar="ORCHESTRATOR_URL", help="the master; default: from the settings")
    ],
    "token": Annotated[
        str | None,
        typer.Option(
            "--token", envvar="ORCHESTRATOR_TOKEN", help="API token; default: admin.token of the settings' data_dir"
        ),
    ],
    "config": ConfigFile,
    "ca_file": Annotated[
        Path | None,
        typer.Option("--ca-file", envvar="ORCHESTRATOR_CA_FILE", help="certificate (PEM) to trust; default: the settings'"),
    ],
    "pin": Annotated[
        str | None, typer.Option("--pin", envvar="ORCHESTRATOR_PIN", help="SHA-256 of the certificate to trust")
    ],
}


class Session:
    """One command's run: its master, and how it wants the answer."""

    def __init__(
        self,
        output: Output,
        url: str | None,
        token: str | None,
        config: Path | None,
        ca_file: Path | None = None,
        pin: str | None = None,
    ) -> None:
        self.json = output is Output.JSON
        self._url, self._token, self._config = url, token, config
        self._ca_file, self._pin = ca_file, pin

    @property
    def url_given(self) -> bool:
        return self._url is not None

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self._config)

    @cached_property
    def api(self) -> Client:
        """The master. Settings are read only where an option is missing. Raises Complaint."""
        from orchestrator.cli.client import Client

        url = self._url or self.settings.api_url
        token, hint = self._token, "the token given is not one of this master's; the first is in its data_dir, admin.token"
        if not token:
            token, hint = self._token_file(url)
        certificate = self._ca_file
        if certificate is None and self._pin is None and url.startswith("https:"):
            certificate = self.settings.certificate
        return Client(url, token, certificate=certificate, pin=self._pin, token_hint=hint)

    def _token_file(self, url: str) -> tuple[str | None, str]:
        """The master's first token, for the settings' own master or one on this host: it is not sent anywhere else."""
        file = self.settings.data_dir / ADMIN_FILE
        fix = f"give --token or ORCHESTRATOR_TOKEN; the master keeps its first token in its data_dir, {ADMIN_FILE}"
        if url != self.settings.api_url and urlsplit(url).hostname not in LOOPBACK:
            return None, fix
        try:
            return file.read_text().strip(), f"the token in {file} is not one of this master's; {fix}"
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            return None, f"{file} cannot be read ({why}); {fix}"

    def show(self, document: object, text: Callable[[], None]) -> None:
        """The document as it is for programs, `text` for people."""
        if self.json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            text()


def pool_path(name: str) -> str:
    """Where the API has this pool."""
    if not name:
        raise typer.BadParameter("a pool has a name; see `orchestrator pool list`")
    return f"pools/{quote(name, safe='')}"


def say(text: str) -> None:
    """A line for the person who watches; it never mixes with the result."""
    from orchestrator.cli.render import clean

    print(clean(text), file=sys.stderr, flush=True)


def command(app: typer.Typer, name: str) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[..., None]]:
    """Register a command that speaks to the master: common options are added, expected errors become lines and a status."""

    def register(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
        @wraps(function)
        def run(
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> None:
            common = [kwargs.pop(option) for option in _COMMON]
            with_complaints(lambda: function(Session(*common), *args, **kwargs))  # type: ignore[arg-type]

        own = inspect.signature(function, eval_str=True)
        defaults: dict[str, Any] = {"output": Output.TEXT}
        added = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=defaults.get(option))
            for option, kind in _COMMON.items()
        ]
        parameters = [*list(own.parameters.values())[1:], *added]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name)(run)
        return run

    return register


def with_complaints(work: Callable[[], None]) -> None:
    """Run it; what is expected to go wrong is told without a trace."""
    from orchestrator.cli.client import Complaint

    try:
        work()
    except Complaint as complaint:
        for line in complaint.lines:
            say(f"{complaint.prefix}{line}")
        raise typer.Exit(complaint.status) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def load_settings(config: Path | None, **given: object) -> Settings:
    """The settings, with what was given on the command line over them. Raises Complaint naming each wrong one."""
    from pydantic import ValidationError

    from orchestrator.cli.client import Complaint
    from orchestrator.settings import CONFIG_FILE, load

    try:
        return load(config, **given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or '$'}: {item['msg']}" for item in error.errors()]
        raise Complaint(*(f"settings ({config or CONFIG_FILE}): {line}; mend it" for line in lines)) from error
    except FileNotFoundError as error:
        raise Complaint(str(error)) from error
    except (OSError, ValueError) as error:  # unreadable, not TOML, or a variable that is not of its kind
        raise Complaint(f"settings ({config or CONFIG_FILE}): {error}; mend it there") from error
