"""Places at which a test lets the agent die: `orchestrator/faultpoints.py` lists them and says how one is armed."""

import os
import signal

_FOLDER = os.environ.get("ORCHESTRATOR_FAULTS")


def reach(point):
    # type: (str) -> None
    """Go on, unless a test has armed this point."""
    if _FOLDER is None:
        return
    try:
        os.unlink(os.path.join(_FOLDER, point))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
