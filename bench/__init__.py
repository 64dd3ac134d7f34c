"""Benchmarks: Shipway's jobs beside what people would use instead, and beside what the machine allows.

Run `python -m bench` from the project's root; docs/performance.md says how to read what comes out.
"""
