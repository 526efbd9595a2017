"""Dagster's history in Postgres: one variable, `DRIRL_POSTGRES_URL`, moves it there from the home's SQLite files.

The address, with its password, stays in the environment: the home's settings only name the variable.
"""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from pipeline.instance.home import with_driver


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage, for addresses as everybody writes them.

    SQLAlchemy 2.1 takes a bare `postgresql://` for psycopg 3, for which Dagster's statements are no valid SQL. Every
    process that opens the instance puts that right here, whoever started it.
    """

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> DagsterPostgresStorage:
        """Open the storage that a home's settings describe."""
        return super().from_config_value(
            inst_data, {**config_value, "postgres_url": with_driver(config_value["postgres_url"])}
        )
