"""The contract suite is an extra: nobody who only runs the master, or only uses a provider, pays for it."""

import subprocess
import sys

from providers.contract import launching


def test_providers_do_not_need_pytest() -> None:
    program = "import sys, providers.base, providers.ec2, orchestrator.app; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_failed_assertions_of_the_suite_tell_what_they_saw() -> None:
    """pytest rewrites only tests it has found itself, and what asks for it."""
    assert "@pytest_ar" in vars(launching)
