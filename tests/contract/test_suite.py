"""The contract, on each of our own providers."""

from providers.contract.suite import *  # noqa: F403
