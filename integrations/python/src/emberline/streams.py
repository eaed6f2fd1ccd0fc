"""Open files of which bytes may still be on their way.

Pinned to the version that was opened: a file that is replaced meanwhile is an error, never a mixture. Turns to the
disk as soon as the file is whole there.
"""

from __future__ import annotations

import io
import os
from typing import Any, Dict, Optional

from fsspec.asyn import AbstractAsyncStreamedFile, sync
from fsspec.spec import AbstractBufferedFile

from .errors import read_only


class RemoteFile(AbstractBufferedFile):
    """A file read through the agent, block by block."""

    def __init__(
        self,
        fs: Any,
        path: str,
        details: Dict[str, Any],
        block_size: int,
        cache_type: str,
        cache_options: Dict[str, Any],
        whole: Optional[io.FileIO] = None,
        **options: Any,
    ) -> None:
        self._whole = whole
        self._may_be_local: bool = fs.local
        super().__init__(
            fs,
            path,
            mode="rb",
            block_size=block_size,
            cache_type=cache_type,
            cache_options=cache_options,
            size=details["size"],
            **options,
        )
        self.details = details

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._whole is None:
            agent = self.fs.agent
            data, sealed = sync(self.fs.loop, agent.read, self.path, start, end, self.details["etag"])
            if sealed and self._may_be_local:
                self._turn_to_disk()
            return bytes(data)
        return os.pread(self._whole.fileno(), end - start, start)

    def _turn_to_disk(self) -> None:
        # Asked once: a file that cannot be opened here will not be later.
        self._may_be_local = False
        details, whole = self.fs.look(self.path)
        if whole is not None and details["etag"] == self.details["etag"]:
            self._whole = whole
        elif whole is not None:
            whole.close()

    def _upload_chunk(self, final: bool = False) -> Any:
        raise read_only(self.path)

    def close(self) -> None:
        """Lets go of it."""
        super().close()
        if self._whole is not None:
            self._whole.close()


class AsyncFile(AbstractAsyncStreamedFile):
    """As :class:`RemoteFile`, for coroutines."""

    def __init__(self, fs: Any, path: str, details: Dict[str, Any], **options: Any) -> None:
        super().__init__(fs, path, mode="rb", size=details["size"], **options)
        self.details = details

    async def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        data, _sealed = await self.fs.agent.read(self.path, start, end, self.details["etag"])
        return bytes(data)
