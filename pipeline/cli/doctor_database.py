"""`drirl doctor`: check that the Postgres database of DRIRL_POSTGRES_URL works, without ever showing the password."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.cli.doctor_checks import Check
from pipeline.instance.home import POSTGRES_VARIABLE, with_driver

_CONNECT_LIMIT_S = 5
_NAME = "postgres"
_FORM = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"

_ADVICE: Mapping[str, str] = {
    "password authentication failed": f"correct user and password in {POSTGRES_VARIABLE}; write special "
    "characters percent-encoded",
    "no password supplied": f"put the password into {POSTGRES_VARIABLE}: {_FORM}",
    "does not exist": "create the database or role first: createuser USER --pwprompt, createdb DATABASE --owner USER",
    "refused": "start the server, or correct host and port",
    "could not translate host name": "correct the host name",
    "timeout expired": "no server answers there; check the network, the firewall and the server's listen_addresses",
    "pg_hba.conf": "allow this machine to connect: add it to pg_hba.conf on the server",
    "too many clients": "raise the server's max_connections",
}
"""Advice by words that occur in the message of the server or the driver."""


def check_postgres() -> Check:
    """Connect to the database that holds the history, and check that tables can be created there."""
    import sqlalchemy

    url = os.environ.get(POSTGRES_VARIABLE)
    if not url:
        return Check(
            _NAME,
            "ok",
            f"{POSTGRES_VARIABLE} is not set, so the history is stored in the home (SQLite, for one machine)",
        )
    try:
        import dagster_postgres  # noqa: F401 - the storage needs it
    except ImportError as error:
        return Check(
            _NAME,
            "fail",
            f"{POSTGRES_VARIABLE} is set, but {error.name} is not installed",
            'pip install -e ".[postgres]"',
        )
    try:
        address = sqlalchemy.make_url(with_driver(url))
    except (sqlalchemy.exc.ArgumentError, ValueError):  # its text may hold the password
        return Check(_NAME, "fail", f"{POSTGRES_VARIABLE} cannot be read as an address", f"write it as {_FORM}")
    if address.drivername != "postgresql+psycopg2":
        return Check(_NAME, "fail", f"{POSTGRES_VARIABLE} starts with {address.drivername}://", f"write it as {_FORM}")
    shown = f"{address.host or 'the local socket'}:{address.port or 5432}/{address.database or address.username}"
    engine = sqlalchemy.create_engine(
        address,
        connect_args={"connect_timeout": _CONNECT_LIMIT_S},
        hide_parameters=True,
        poolclass=sqlalchemy.pool.NullPool,
    )
    try:
        with engine.connect() as connection:
            version = connection.execute(sqlalchemy.text("SHOW server_version")).scalar_one()
            may_create = connection.execute(
                sqlalchemy.text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            ).scalar_one()
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        if address.password:
            said = said.replace(str(address.password), "***")
        advice = next(
            (text for words, text in _ADVICE.items() if words in said), f"correct {POSTGRES_VARIABLE}: {_FORM}"
        )
        return Check(_NAME, "fail", f"{shown}: {said}", advice)
    if not may_create:
        return Check(
            _NAME,
            "fail",
            f"{shown}: {address.username} is not allowed to create tables",
            f"GRANT CREATE ON SCHEMA public TO {address.username}",
        )
    return Check(_NAME, "ok", f"Postgres {version.split()[0]} at {shown} holds the history")
