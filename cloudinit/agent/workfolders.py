"""Work folders of attempts: empty ones are kept at hand, for making one costs as much as starting the process in it."""

import os
import stat


class WorkFolders:
    """Folders under `base`, one an attempt. At most `spare` empty ones are kept for the next."""

    def __init__(self, base, spare):
        # type: (str, int) -> None
        self._base = base
        self._most = spare
        self._made = 0
        self._spare = []  # type: list
        for name in os.listdir(base):  # whatever an earlier agent kept here is nobody's
            if name.startswith("."):
                self._remove(os.path.join(base, name))
        self._refill()

    def take(self, path):
        # type: (str) -> None
        """An empty folder of this agent's user at `path`. Raises OSError where there cannot be one."""
        if self._spare:
            os.rename(self._spare.pop(), path)
        else:
            os.mkdir(path, 0o700)

    def give_back(self, path):
        # type: (str) -> None
        """The attempt is past. A folder as it was given serves again; any other is removed with all in it."""
        if len(self._spare) < self._most and _as_new(path):
            spare = self._next()
            os.rename(path, spare)
            self._spare.append(spare)
        else:
            self._remove(path)
            self._refill()

    def _refill(self):
        # type: () -> None
        while len(self._spare) < self._most:
            spare = self._next()
            try:
                os.mkdir(spare, 0o700)
            except OSError:  # a full disk: whoever needs a folder is told then
                return
            self._spare.append(spare)

    def _next(self):
        # type: () -> str
        self._made += 1
        return os.path.join(self._base, ".%d" % self._made)

    def _remove(self, path):
        # type: (str) -> None
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            import shutil  # costs a megabyte: only machines whose jobs leave files pay it

            shutil.rmtree(path, ignore_errors=True)


def _as_new(path):
    # type: (str) -> bool
    """Empty, and with the owner and the rights it was made with."""
    try:
        seen = os.lstat(path)
        mine = stat.S_IMODE(seen.st_mode) == 0o700 and seen.st_uid == os.geteuid()
        return mine and stat.S_ISDIR(seen.st_mode) and not os.listdir(path)
    except OSError:
        return False
