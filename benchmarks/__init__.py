"""Measures this project's host and controller beside others that serve a remote disk as a file.

`make bench`, or `python -m benchmarks --help`; docs/performance.md says how to read the results.
"""
