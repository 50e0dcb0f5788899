"""The demo: real traces, real jobs, and a check of what they found."""
