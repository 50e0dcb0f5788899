"""Small files that a task writes for its agent, in its own work folder: whatever lies there, reading it does no harm."""

import os
import stat


def read(path, limit, tail=False):
    # type: (str, int, bool) -> bytes | None
    """The content, None where there is no such file. Follows no link and waits for no pipe. Of a file over the limit the
    last whole lines within it, where the `tail` will do.

    Raises ValueError, which says what is there instead."""
    if not os.access(path, os.F_OK):  # so for nearly every task, and an exception costs more
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError("cannot be read: %s" % error.strerror) from None
    try:
        seen = os.fstat(file)
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError("is not a plain file")
        if tail and seen.st_size > limit:
            lines = os.pread(file, limit, seen.st_size - limit).partition(b"\n")[2]
            if lines:
                return lines
        content = os.read(file, limit + 1)
    except OSError as error:
        raise ValueError("cannot be read: %s" % error.strerror) from None
    finally:
        os.close(file)
    if len(content) > limit:
        raise ValueError("is over %d bytes" % limit)
    return content
