"""Elastic Orchestrator: batch jobs that rent virtual machines only while there is work."""

__version__ = "0.1.0"
