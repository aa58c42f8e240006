"""Hostile peers: harnesses that a fuzzer drives; see `run`."""
