"""Files that are whole on this machine's disk: opened by their path, without HTTP.

The agent tells a path and what proves it. The same path may lead elsewhere on another machine or in a container, so
a path is taken only on the same boot of the same kernel, and the file only if it has the agent's device, inode and
size. It is never written again, and what has it open keeps it when the agent removes it.
"""

from __future__ import annotations

import io
import os
from typing import Any, Dict, Optional

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def open_whole(presence: Dict[str, Any]) -> Optional[io.FileIO]:
    """The file that an answer speaks of, if it is whole, and to be opened here."""
    place = presence.get("local")
    if not isinstance(place, dict) or place.get("boot_id") != _boot_id():
        return None
    try:
        opened = io.FileIO(place["path"], "rb")
    except OSError:
        # Another mount namespace, or no right to it: HTTP serves as well.
        return None
    found = os.fstat(opened.fileno())
    if (found.st_dev, found.st_ino, found.st_size) != (place["device"], place["inode"], presence["bytes"]):
        opened.close()
        return None
    return opened


def _boot_id() -> Optional[str]:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


class LocalFile(io.BufferedReader):
    """A whole file, open by its path: has a descriptor, so it can be mapped."""

    def __init__(self, fs: Any, path: str, details: Dict[str, Any], raw: io.FileIO) -> None:
        super().__init__(raw)
        self.fs = fs
        self.path = path
        self.details = details
        self.size: int = details["size"]
        self.local_path = str(raw.name)

    def info(self) -> Dict[str, Any]:
        """As ``fs.info``, when it was opened."""
        return self.details

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return _reopen, (self.fs, self.path, self.tell())


def _reopen(fs: Any, path: str, position: int) -> Any:
    file = fs.open(path)
    file.seek(position)
    return file
