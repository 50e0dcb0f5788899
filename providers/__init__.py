"""Clouds behind one contract (see `providers.base`). No database, no policy."""
