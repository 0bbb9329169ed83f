"""PostgreSQL: tables, migrations, transactions and notifications."""
