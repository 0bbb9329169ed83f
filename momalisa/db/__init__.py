"""PostgreSQL: the tables, and the one way to open a transaction."""
