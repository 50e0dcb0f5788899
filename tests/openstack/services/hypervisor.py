"""Nova's own fake hypervisor, with guests that say what their user data echo, and that can be broken from outside."""

import base64
import re

from nova import context, exception
from nova.compute import power_state
from nova.virt import fake

FAILURES = {
    "no capacity": lambda uuid: exception.ComputeResourcesUnavailable(reason="told by the test"),
    "dies": lambda uuid: exception.BuildAbortException(instance_uuid=uuid, reason="told by the test"),
}


class Hypervisor(fake.FakeDriver):
    """The one there is says of itself what `told` needs."""

    running = None
    spoilt = ""  # a regular expression of the names of servers that are not to be
    failure = ""

    def init_host(self, host):
        super().init_host(host)
        Hypervisor.running = self

    def spawn(self, context, instance, *args, **more):
        if self.spoilt and re.match(self.spoilt, instance.display_name):
            raise FAILURES[self.failure](instance.uuid)
        super().spawn(context, instance, *args, **more)

    def get_console_output(self, context, instance):
        if instance.uuid not in self.instances:  # Nova asks for the console of what is not spawned yet, too
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        text = base64.b64decode(instance.user_data or "").decode(errors="replace")
        return "\n".join(["guest login:", *re.findall("^echo (.*)$", text, re.MULTILINE), ""])


def told(compute, order):
    """What no user can do: spoil the servers of a launch, power a guest off from inside, lose it."""
    driver = Hypervisor.running
    match order:
        case {"spoil": names, "failure": failure}:
            Hypervisor.spoilt, Hypervisor.failure = names, failure
            return
        case {"power_off": uuid}:
            driver.instances[uuid].state = power_state.SHUTDOWN
        case {"lose": uuid}:
            del driver.instances[uuid]
    compute.manager._sync_power_states(context.get_admin_context())
