"""A CloudStack management server for tests, as a real 4.21 answered: signatures, states over time, jobs, codes and words.

`cloud` is what there is and what becomes of it, `commands` the API's commands on it, `rows` how it is shown, `auth` who may
ask, `front` the HTTP before it with the faults that tests put in. `tests/cloudstack/test_recorded_exchanges.py` holds it to what the
real one said. Not imitated: hypervisors, volumes, virtual routers, roles other than User and root admin.
"""

from .cloud import ADMIN, USER, Cloud, Settings, Times
from .front import Fault, Server, serve

__all__ = ["ADMIN", "USER", "Cloud", "Fault", "Server", "Settings", "Times", "serve"]
