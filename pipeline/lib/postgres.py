"""Old module path of the Postgres storage, which homes of version 0.1 use; use `pipeline.instance.postgres`."""

from pipeline.instance.postgres import PostgresStorage

__all__ = ["PostgresStorage"]
