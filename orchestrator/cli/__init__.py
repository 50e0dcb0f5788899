"""The command line: the same services, over the API."""
