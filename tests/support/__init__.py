"""Helpers that tests share: real trees, real servers."""
