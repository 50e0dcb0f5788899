"""Policies decide how many machines a pool has: pure functions of a view (see `policies.base`)."""
