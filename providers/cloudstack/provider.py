"""One account of one CloudStack, seen by one installation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..base import (
    TAG_INSTALLATION,
    CatalogueItem,
    Finding,
    Instance,
    LaunchRequest,
    ProviderError,
)
from . import catalogue, inspection, machines
from .account import find_account
from .errors import NOT_ALLOWED, PARAMETER, THROTTLED, Refusal, translated
from .jobs import Jobs
from .launching import AT_ONCE, Launching, Seen
from .listing import Lists
from .names import Names
from .patience import patiently
from .template import USER_DATA_LIMIT, prefix, tags
from .template import validate as validate_template


class CloudStackProvider:
    """Thread-safe. Keeps names it looked up, and the ids of jobs; what matters after a crash is in the cloud.

    The keys are those of `profile` in CloudMonkey's file, or of the environment. `project`, or `account` with `domain`, is
    on whose behalf it acts. `deploy_timeout_s` is for the one call that a server may take long to answer, with large user
    data nearly a minute. Raises Misconfigured or Unauthorised where settings or keys are missing.
    """

    user_data_limit = USER_DATA_LIMIT
    rents = True

    def __init__(
        self,
        *,
        installation: str,
        url: str | None = None,
        profile: str | None = None,
        config_file: str = "~/.cmk/config",
        project: str | None = None,
        account: str | None = None,
        domain: str | None = None,
        timeout_s: float = 20,
        deploy_timeout_s: float = 60,
        ca_file: str | None = None,
        verify: bool = True,
    ) -> None:
        from .connection import Calls

        keys = find_account(url, profile, config_file)
        self.endpoint = keys.url
        self._installation = installation
        self._timeout_s = timeout_s
        self._call = Calls(keys, timeout_s, ca_file if ca_file and verify else verify)
        self._lists = Lists(self._call.timed)
        self._names = Names(self._lists, project, account, domain)
        self._jobs = Jobs(self._call)
        self._launching = Launching(installation, self._call, self._names, self._jobs, self._look, deploy_timeout_s)
        self._ends = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cloudstack-end")  # never behind slow launches
        self._capable: Mapping[str, Any] | None = None

    # -- the contract --

    def validate(self, template: Mapping[str, object]) -> None:
        """Misconfigured naming the key of a launch template that is unknown or ill-formed. Makes no call."""
        validate_template(template)

    def check(self) -> None:
        """One small listing: it needs the address, the keys and the right that every tick needs."""
        with translated("list machines"):
            self._call("listVirtualMachines", {"page": "1", "pagesize": "1", **self._names.scope()})

    def inspect(self, image: str, instance_type: str, template: Mapping[str, object]) -> list[Finding]:
        """Zone, offering, template, networks, key, groups, what is left of the account's limits; whether it expunges."""
        with translated("look at what a launch needs"):
            found = inspection.inspect(self._names, image, instance_type, template)
            return [*found, *inspection.server_side(self._capabilities(), template)]

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """One deployVirtualMachine for each machine. Too large user data are refused here, before any call.

        Never waits for the jobs that start the machines: one that could not be started shows as ERROR in `instances`.
        """
        request.refuse_user_data_over(self.user_data_limit, "CloudStack")
        return self._launching.launch(request)

    def instances(self) -> list[Instance]:
        """All pages of what bears a name of ours, its tags looked at again here; jobs are asked about where they matter."""
        return [seen for _, seen in self._look(prefix(self._installation))]

    def terminate(self, ids: Iterable[str]) -> None:
        """One destroyVirtualMachine for each, the first alone: where it fails for a reason that all share, the others are
        not asked for. Else every one is, and then the first failure is raised."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return
        with translated("terminate machines"):
            self._may_expunge()
        first = self._failure_of_end(wanted[0], patience_s=0)
        if first and _of_all(first):
            raise first
        others = self._ends.map(lambda machine: self._failure_of_end(machine, self._timeout_s), wanted[1:])
        failures = [failure for failure in (first, *others) if failure]
        if failures:
            raise failures[0]

    def impaired(self) -> Mapping[str, str]:
        """Empty: CloudStack has no status checks of its own."""
        return {}

    def console(self, instance_id: str) -> str:  # noqa: ARG002
        """ "" always: CloudStack shows a console to people, in a browser, and to no program."""
        return ""

    def catalogue(self, kind: str) -> list[CatalogueItem]:
        """`images` are templates that may be run, `sizes` service offerings, `locations` zones."""
        with translated(f"list {kind}"):
            return catalogue.catalogue(self._names, kind)

    # -- how --

    def _look(self, name_begins: str) -> list[Seen]:
        """The machines whose names begin so and whose tags say that they are ours, oldest first."""
        with translated("list machines"):
            narrowed = {"keyword": name_begins, "details": "nics", **self._names.scope()}
            rows, now = self._lists.timed("listVirtualMachines", "virtualmachine", narrowed)
            ours = [row for row in rows if tags(row).get(TAG_INSTALLATION) == self._installation]
            known = self._jobs.look(ours)
            seen = [(row, machines.instance(row, known(row), now)) for row in ours]
        return sorted(seen, key=lambda each: (str(each[0].get("created")), each[1].id))

    def _failure_of_end(self, machine: str, patience_s: float) -> ProviderError | None:
        try:
            patiently(lambda: self._end(machine), patience_s)
        except ProviderError as error:
            return error
        return None

    def _end(self, machine: str) -> None:
        """Ask its end; what the cloud does not know is ended.

        A user without the right to expunge gets a job that fails, and the machine runs on: the right is asked for first,
        and a machine that has to be ended a second time is ended without expunging.
        """
        expunge = self._may_expunge() and not self._jobs.end_was_asked(machine)
        with translated(f"terminate {machine}"):
            try:
                reply = self._call("destroyVirtualMachine", {"id": machine, **({"expunge": "true"} if expunge else {})})
            except Refusal as refusal:
                if refusal.code != PARAMETER or self._is_there(machine):
                    raise
                return
        self._jobs.ends(machine, reply.get("jobid"))

    def _is_there(self, machine: str) -> bool:
        """431 says of a machine that it is not there, and also that its protection forbids its end."""
        try:
            found = self._call("listVirtualMachines", {"id": machine, **self._names.scope()})
        except Refusal as refusal:
            if refusal.code != PARAMETER:
                raise
            return False
        return bool(found.get("virtualmachine"))

    def _may_expunge(self) -> bool:
        """Whether this account may."""
        return self._capabilities().get("allowuserexpungerecovervm") is True

    def _capabilities(self) -> Mapping[str, Any]:
        """What the server lets this account do, asked once. One that may not ask may do nothing special."""
        if self._capable is None:
            try:
                self._capable = self._call("listCapabilities", {}).get("capability", {})
            except Refusal as refusal:
                if refusal.code != NOT_ALLOWED:
                    raise
                self._capable = {}
        return self._capable


def _of_all(failure: ProviderError) -> bool:
    """Whether every machine would be refused so: nobody answers, the keys or the role are wrong, or it is too much."""
    return not isinstance(failure.__cause__, Refusal) or failure.__cause__.code in (401, THROTTLED, NOT_ALLOWED, 503)
