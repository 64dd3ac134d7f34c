"""All jobs, in the order in which they run."""

from bench.jobs import packing

JOBS = (*packing.JOBS,)
