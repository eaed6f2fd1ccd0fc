"""``ember://`` for fsspec: the agent's namespace as a read-only file system.

A file need not be here to be opened: reads wait for their own bytes only, and what the file is part of starts to
come. A file that is whole on this machine's disk is read from there, without HTTP. Holds no copy of anything: the
agent does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from datetime import datetime, timezone
from typing import Any, AsyncIterator, Dict, List, Optional, Tuple

from fsspec import asyn
from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK

from .agent import Agent
from .errors import Invalid, IsADirectory, NotFound, made, read_only
from .local import LocalFile, open_whole
from .reference import SCHEMES, namespace_path
from .streams import AsyncFile, RemoteFile

#: One request for bytes of a file that is not here yet, at least.
BLOCK_BYTES = 4 << 20


class EmberlineFileSystem(AsyncFileSystem):
    """The agent's namespace: ``ember://s3/bucket/key``, ``ember://hf/org/name/revision/file``, ``ember://mount/…``.

    Parameters
    ----------
    agent: URL or ``host:port`` of the agent; else ``EMBERLINE_AGENT``, else ``http://127.0.0.1:7580``.
    token_file: file with its token; else ``EMBERLINE_TOKEN_FILE``, else none.
    local: read whole files from this machine's disk where the agent says that they are there.
    use_listings_cache: remember listings in this process, too; the agent does for a time.
    """

    protocol = SCHEMES
    root_marker = ""
    blocksize = BLOCK_BYTES

    def __init__(
        self,
        agent: Optional[str] = None,
        token_file: Optional[str] = None,
        local: bool = True,
        use_listings_cache: bool = False,
        **options: Any,
    ) -> None:
        self._pid = os.getpid()
        super().__init__(use_listings_cache=use_listings_cache, **options)
        self.agent = Agent(agent, token_file)
        self.local = local

    @property
    def loop(self) -> Any:
        """Where requests run; a forked process gets its own."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            thread = asyn.iothread[0]
            if thread is not None and not thread.is_alive():
                # fsspec of before 2025 goes on with its parent's.
                asyn.reset_lock()
            self._loop = None if self.asynchronous else get_loop()
        return self._loop

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = os.fspath(path)
        scheme, separator, _ = path.partition("://")
        return namespace_path(path) if separator and scheme in SCHEMES else path.strip("/")

    # What is there

    async def _info(self, path: str, **_: Any) -> Dict[str, Any]:
        path = self._strip_protocol(path)
        return _described(path, await self.agent.ask(path, {"stat": ""}))

    async def _ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> List[Any]:
        path = self._strip_protocol(path)
        infos = None if refresh else self._ls_from_cache(path)
        if infos is None:
            try:
                infos = [info async for info in self._entries(path, {})]
            except Invalid:
                # A file is its own listing.
                infos = [await self._file_info(path)]
            self.dircache[path] = infos
        return infos if detail else [info["name"] for info in infos]

    async def _find(
        self, path: str, maxdepth: Optional[int] = None, withdirs: bool = False, **options: Any
    ) -> Any:
        path = self._strip_protocol(path)
        detail, prefix = options.pop("detail", False), options.pop("prefix", "")
        if maxdepth is None and path:
            try:
                found = await self._find_below(path, prefix, withdirs)
                return found if detail else list(found)
            except Invalid:
                # Names of origins cannot be listed through: walk them.
                pass
        return await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)

    async def _find_below(self, path: str, prefix: str, withdirs: bool) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        async for info in self._entries(path, {"recursive": "true", "prefix": prefix}):
            found[info["name"]] = info
            parent = info["name"].rpartition("/")[0]
            while withdirs and len(parent) > len(path) and parent not in found:
                found[parent] = {"name": parent, "size": 0, "type": "directory"}
                parent = parent.rpartition("/")[0]
        if found and withdirs:
            found[path] = {"name": path, "size": 0, "type": "directory"}
        if not found and not prefix:
            try:
                info = await self._info(path)
            except NotFound:
                return {}
            if withdirs or info["type"] == "file":
                found[path] = info
        return dict(sorted(found.items()))

    async def _entries(self, path: str, query: Dict[str, str]) -> AsyncIterator[Dict[str, Any]]:
        """Page by page, in the order of names."""
        after: Optional[str] = None
        while True:
            asked = {"list": "", **query, **({} if after is None else {"start_after": after})}
            page = await self.agent.ask(path, asked)
            for entry in page["entries"]:
                name = entry["name"].rstrip("/")
                yield _described(f"{path}/{name}" if path else name, entry)
            after = page.get("next")
            if after is None:
                return

    async def _file_info(self, path: str) -> Dict[str, Any]:
        info = await self._info(path)
        if info["type"] != "file":
            raise made(IsADirectory, errno.EISDIR, "is a directory", path)
        return info

    async def _modified(self, path: str) -> datetime:
        info = await self._file_info(self._strip_protocol(path))
        if info["mtime"] is None:
            raise made(Invalid, errno.EINVAL, "its origin does not tell when it was changed", path)
        return datetime.fromtimestamp(info["mtime"], tz=timezone.utc)

    def modified(self, path: str) -> datetime:
        """When a file was changed last, where its origin tells."""
        return sync(self.loop, self._modified, path)  # type: ignore[no-any-return]

    def checksum(self, path: str) -> int:
        """A number for the version of a file: another when its content is another."""
        return int.from_bytes(self.ukey(path).encode(), "big")

    def ukey(self, path: str) -> str:
        """The tag of the version of a file."""
        return str(sync(self.loop, self._file_info, self._strip_protocol(path))["etag"])

    def invalidate_cache(self, path: Optional[str] = None) -> None:
        """Forgets the listing of a directory, or all, that this process remembers."""
        if path is None:
            self.dircache.clear()
        else:
            self.dircache.pop(self._strip_protocol(path), None)
        super().invalidate_cache(path)

    # What is in it

    async def presence(
        self, path: str, more_than: Optional[int] = None, sealed: bool = False
    ) -> Dict[str, Any]:
        """How much of a file is here; it starts to come. Waits up to 20 s for more bytes, or for all of it."""
        path = self._strip_protocol(path)
        query: Dict[str, Any] = {"presence": ""}
        if more_than is not None:
            query["more_than"] = more_than
        if sealed:
            query["sealed"] = "true"
        try:
            return await self.agent.ask(path, query)
        except Invalid:
            # Says so if it is a directory.
            await self._file_info(path)
            raise

    async def _cat_file(
        self, path: str, start: Optional[int] = None, end: Optional[int] = None, **_: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        seen = await self.presence(path)
        first, stop, _step = slice(start, end).indices(seen["bytes"])
        whole = open_whole(seen) if self.local else None
        if whole is not None:
            with whole:
                return await asyncio.get_running_loop().run_in_executor(None, _read, whole.fileno(), first, stop)
        data, _sealed = await self.agent.read(path, first, stop, seen["etag"])
        return bytes(data)

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **_: Any) -> None:
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            return
        try:
            seen = await self.presence(rpath)
        except IsADirectory:
            os.makedirs(lpath, exist_ok=True)
            return
        callback.set_size(seen["bytes"])
        os.makedirs(os.path.dirname(lpath) or ".", exist_ok=True)
        whole = open_whole(seen) if self.local else None
        if whole is not None:
            with whole:
                await asyncio.get_running_loop().run_in_executor(None, shutil.copyfile, whole.name, lpath)
            callback.relative_update(seen["bytes"])
            return
        with open(lpath, "wb") as file:
            async for piece, _sealed in self.agent.stream(rpath, 0, seen["bytes"], seen["etag"]):
                file.write(piece)
                callback.relative_update(len(piece))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: Optional[Dict[str, Any]] = None,
        cache_type: str = "readahead",
        size: Optional[int] = None,
        **options: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        if mode != "rb":
            raise read_only(path)
        details, whole = self.look(path)
        if whole is not None and cache_type != "none":
            return LocalFile(self, path, details, whole)
        # Who wants no cache puts one of his own into the file, as fsspec's caching file systems do.
        block_bytes = block_size if isinstance(block_size, int) else self.blocksize
        return RemoteFile(self, path, details, block_bytes, cache_type, cache_options or {}, whole, **options)

    def look(self, path: str) -> Tuple[Dict[str, Any], Any]:
        """What a file is now, and itself if it is whole and may be read here. Starts to bring it."""
        seen = sync(self.loop, self.presence, path)
        details = _described(path, {**seen, "type": "file"})
        return details, (open_whole(seen) if self.local else None)

    async def open_async(self, path: str, mode: str = "rb", **options: Any) -> AsyncFile:
        """A stream for coroutines."""
        path = self._strip_protocol(path)
        if mode != "rb":
            raise read_only(path)
        seen = await self.presence(path)
        return AsyncFile(self, path, _described(path, {**seen, "type": "file"}), **options)

    # What is not to be had

    async def _refuse(self, path: str, *_: Any, **__: Any) -> Any:
        raise read_only(path)

    _rm_file = _refuse
    _rm = _refuse
    _cp_file = _refuse
    _mv_file = _refuse
    _mkdir = _refuse
    _makedirs = _refuse
    _rmdir = _refuse
    _touch = _refuse

    async def _pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        raise read_only(path)

    async def _put_file(self, lpath: Any, rpath: str, mode: str = "overwrite", **_: Any) -> None:
        raise read_only(rpath)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Refused."""
        raise read_only(path)

    def rmdir(self, path: str) -> None:
        """Refused."""
        raise read_only(path)

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        """There are no signed URLs."""
        raise NotImplementedError("an agent's URLs are not signed")


def _described(path: str, entry: Dict[str, Any]) -> Dict[str, Any]:
    if entry["type"] == "directory":
        return {"name": path, "size": 0, "type": "directory"}
    return {
        "name": path,
        "size": entry["bytes"],
        "type": "file",
        "etag": entry["etag"],
        "mtime": entry.get("modified"),
    }


def _read(descriptor: int, start: int, stop: int) -> bytes:
    """Positioned reads, as many as it takes."""
    pieces = []
    while start < stop:
        piece = os.pread(descriptor, min(stop - start, 1 << 30), start)
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
