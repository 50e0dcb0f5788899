"""The main job on a local cloud: `make demo`, and `make serve`, which keeps it running."""
