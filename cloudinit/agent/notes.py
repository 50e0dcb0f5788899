"""Small files that a task writes for its agent, in its own work folder: whatever lies there, reading it does no harm."""

import os
import stat


def read(path, limit):
    # type: (str, int) -> bytes | None
    """The content, None where there is no such file. Follows no link and waits for no pipe.

    Raises ValueError, which says what is there instead."""
    if not os.access(path, os.F_OK):  # so for nearly every task, and an exception costs more
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError("cannot be read: %s" % error.strerror) from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("is not a plain file")
        content = os.read(file, limit + 1)
    except OSError as error:
        raise ValueError("cannot be read: %s" % error.strerror) from None
    finally:
        os.close(file)
    if len(content) > limit:
        raise ValueError("is over %d bytes" % limit)
    return content
