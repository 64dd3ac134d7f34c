"""Trees on disk that can be mounted: the contract of a driver, and the drivers."""
