"""Everything a provider must keep. A test module takes it whole, beside a fixture `cloud` that gives its lab."""

from .ending import *  # noqa: F403
from .failing import *  # noqa: F403
from .fixtures import *  # noqa: F403
from .launching import *  # noqa: F403
from .listing import *  # noqa: F403
from .looking import *  # noqa: F403
