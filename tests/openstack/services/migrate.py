"""migrate.py nova|neutron: the tables of a service, where its own command cannot make them or would need four starts."""

import os
import sys


def nova():
    from nova import config
    from nova.db import migration

    config.parse_args(["nova", "--config-file", f"{os.environ['ETC']}/nova.conf"])
    migration.db_sync(database="api")
    migration.db_sync(database="main")


def neutron():
    """There are no migrations for SQLite: the models are asked for their tables."""
    import sqlalchemy
    from neutron.db.migration.models import head  # noqa: F401
    from neutron_lib.db import model_base

    model_base.BASEV2.metadata.create_all(sqlalchemy.create_engine(os.environ["NEUTRON_DATABASE"]))


if __name__ == "__main__":
    {"nova": nova, "neutron": neutron}[sys.argv[1]]()
