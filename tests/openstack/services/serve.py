"""serve.py SERVICE PORT: one OpenStack service on loopback, its configuration in the folder $ETC.

Nova brings its conductor, scheduler and one compute along, in one process: their messages then need no broker.
"""

import importlib
import json
import os
import sys
import threading
import uuid
from contextlib import contextmanager, nullcontext

from front import Front, answer, body

APPLICATIONS = {
    "keystone": "keystone.wsgi.api",
    "glance": "glance.wsgi.api",
    "neutron": "neutron.wsgi.api",
    "placement": "placement.wsgi.api",
    "nova": "nova.wsgi.osapi_compute",
}


def main(service, port):
    for name in ("KEYSTONE", "GLANCE", "NEUTRON", "NOVA", "PLACEMENT"):
        os.environ[f"OS_{name}_CONFIG_DIR"] = os.environ["ETC"]
    os.environ["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
    sys.argv[1:] = []
    one_writer_at_a_time()
    if service == "nova":
        from nova import monkey_patch

        monkey_patch.patch(backend="threading")
        sys.modules["nova.virt.lab"] = importlib.import_module("hypervisor")
    application = Front(importlib.import_module(APPLICATIONS[service]).application)
    if service == "nova":
        application = with_orders(application, started_compute())

    from werkzeug.serving import make_server

    make_server("127.0.0.1", int(port), application, threaded=True).serve_forever()


def one_writer_at_a_time():
    """SQLite has one writer at a time, and may refuse another at once rather than let it wait."""
    from oslo_db.sqlalchemy import enginefacade

    turn = threading.RLock()
    manager = enginefacade._TransactionContextManager
    scope = manager._transaction_scope

    @contextmanager
    def in_turn(self, context):
        with turn if self._mode is enginefacade._WRITER else nullcontext(), scope(self, context) as resource:
            yield resource

    manager._transaction_scope = in_turn


def started_compute():
    from nova import context, service
    from nova.compute import rpcapi as compute
    from nova.conductor import rpcapi as conductor
    from nova.objects import CellMapping, Service, host_mapping
    from nova.scheduler import rpcapi as scheduler

    Service.enable_min_version_cache()
    admin = context.get_admin_context()
    for cell, name, broker in ((CellMapping.CELL0_UUID, "cell0", "none:///"), (str(uuid.uuid4()), "cell1", "fake:///")):
        database = os.environ[f"{name.upper()}_DATABASE"]
        CellMapping(admin, uuid=cell, name=name, transport_url=broker, database_connection=database).create()
    parts = {
        "nova-conductor": {"topic": conductor.RPC_TOPIC},
        "nova-scheduler": {"topic": scheduler.RPC_TOPIC},
        "nova-compute": {"topic": compute.RPC_TOPIC},
    }
    if hasattr(compute, "RPC_TOPIC_ALT"):
        parts["nova-compute"]["topic_alt"] = compute.RPC_TOPIC_ALT
    for binary, more in parts.items():
        started = service.Service.create(binary=binary, host="node", **more)
        started.start()
    host_mapping.discover_hosts(admin)
    return started


def with_orders(application, compute):
    """`/_nova`: what the tests have done to the hypervisor and to the length of pages."""
    import hypervisor
    from nova.conf import CONF

    def orderly(environ, start_response):
        if environ["PATH_INFO"] != "/_nova":
            return application(environ, start_response)
        order = json.loads(body(environ))
        if "page" in order:
            CONF.set_override("max_limit", order["page"], "api")
        else:
            hypervisor.told(compute, order)
        return answer(start_response, 200, {})

    return orderly


if __name__ == "__main__":
    main(*sys.argv[1:])
