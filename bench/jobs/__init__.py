"""All jobs, in the order in which they run."""

from bench.jobs import (
    checksums,
    committing,
    extracting,
    mounting,
    packing,
    pulling,
    pushing,
    serving,
    sharing,
    starting,
    storing,
)

JOBS = (
    *starting.JOBS,
    *committing.JOBS,
    *packing.JOBS,
    *checksums.JOBS,
    *mounting.JOBS,
    *storing.JOBS,
    *pushing.JOBS,
    *pulling.JOBS,
    *extracting.JOBS,
    *serving.JOBS,
    *sharing.JOBS,
)
