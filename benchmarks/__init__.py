"""Benchmarks, some of them in comparison with other software; they write the tables in `docs/`."""
