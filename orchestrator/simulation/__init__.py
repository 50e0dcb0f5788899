"""The simulation: the real control code and the real agent under virtual time, and a seeded plan of everything that fails.

One thread, no sleeps, no sockets: the same seed gives the same run, event by event. `run` plays one seed, `many` plays
thousands, `mutants` proves that it would notice.
"""
