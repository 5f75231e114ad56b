"""Turns a run's results into `docs/performance.md` and its pictures."""
