"""Dagster's history in Postgres: setting `DRIRL_POSTGRES_URL` stores it there instead of in the home's SQLite files.

The address, with its password, stays in the environment: the home's settings only name the variable.
"""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from pipeline.instance.home import with_driver


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's Postgres storage, which also accepts addresses without a driver.

    SQLAlchemy 2.1 uses psycopg 3 for a plain `postgresql://`, and Dagster's statements are not valid SQL there. Every
    process that opens the instance corrects the address here, whoever started it.
    """

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> DagsterPostgresStorage:
        """Open the storage that a home's settings describe."""
        return super().from_config_value(
            inst_data, {**config_value, "postgres_url": with_driver(config_value["postgres_url"])}
        )
