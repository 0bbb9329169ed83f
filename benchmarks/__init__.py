"""MoMALisa measured against what people use otherwise; the tables go into `docs/quality.md`."""
