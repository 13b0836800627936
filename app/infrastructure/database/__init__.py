"""The database made real, on SQLite and PostgreSQL.

The ways in, and nothing else in this package is meant for outside:

- `engine.open_database` opens it, `engine.Database.exists` and `engine.Database.probe` prove it;
- `migrate.current_revision`, `migrate.check_schema` and `migrate.upgrade` bring the schema to head;
- `unit_of_work.SqlStorage` is the `Storage` that the services are given.
"""
