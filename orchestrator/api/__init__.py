"""The REST face: reads rows, writes intents; no logic of its own."""
