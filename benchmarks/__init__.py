"""Benchmarks: one command each (`python -m benchmarks.NAME`), one line of JSON each; `python -m benchmarks` runs all.

Figures are compared with a floor or, as a ratio, with a baseline measured in the same run.
"""
