"""The truth: engine and migrations, the one writer, the doors through which states change, every query."""
