"""The master's side of the agent protocol: claims and results, wake-ups, logs, and the endpoints agents call."""
