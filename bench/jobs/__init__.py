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
    sparse,
    starting,
    storing,
)

JOBS = (
    *starting.JOBS,
    *committing.JOBS,
    *packing.JOBS,
    *sparse.JOBS,
    *checksums.JOBS,
    *mounting.JOBS,
    *storing.JOBS,
    *pushing.JOBS,
    *pulling.JOBS,
    *extracting.JOBS,
    *serving.JOBS,
    *sharing.JOBS,
)
