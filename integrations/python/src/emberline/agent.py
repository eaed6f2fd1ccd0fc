"""One agent's HTTP door: questions in, JSON and bytes out.

Owns the connection, the token, and what is tried again. A read of one version never gives bytes of another: every
request for bytes names the tag it wants. Knows nothing of fsspec.
"""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from typing import Any, AsyncIterator, Dict, List, Mapping, Optional, Tuple, Union
from urllib.parse import quote

import aiohttp
from yarl import URL

from .errors import Denied, EmberlineError, Invalid, TimedOut, Unavailable, Unreachable, made, of_problem

DEFAULT_AGENT = "http://127.0.0.1:7580"
#: Further attempts after one that failed for a passing reason.
RETRIES = 4
#: The longest wait before one of them.
RETRY_WAIT_MAX_SECONDS = 5.0
#: The agent says within a minute that something does not come.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
_PIECE_BYTES = 1 << 20

#: Connections that a forked process got from its parent. Closing them is the parent's; nobody else ends them.
_inherited: List[aiohttp.ClientSession] = []

Query = Mapping[str, Union[str, int]]


class Agent:
    """Where an agent is, and how to ask it. Pickles without its connections; survives a fork."""

    def __init__(self, url: Optional[str] = None, token_file: Optional[str] = None) -> None:
        self._url = url
        self._token_file = token_file
        self._session: Optional[aiohttp.ClientSession] = None
        self._home: Optional[Tuple[int, asyncio.AbstractEventLoop]] = None
        self._answered = False

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_session": None, "_home": None, "_answered": False}

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end: as given, else ``EMBERLINE_AGENT``, else the default."""
        url = self._url or os.environ.get("EMBERLINE_AGENT") or DEFAULT_AGENT
        return (url if "://" in url else f"http://{url}").rstrip("/")

    async def ask(self, path: str, query: Query) -> Dict[str, Any]:
        """What the agent says about ``path``."""
        attempts = _Attempts()
        while True:
            try:
                async with self._request(path, query, {}) as answer:
                    told = await answer.json(content_type=None)
                    if not isinstance(told, dict):
                        raise made(Invalid, errno.EINVAL, f"{self.url} is no Emberline agent", path)
                    return told
            except Exception as failed:
                await attempts.again(self._explained(failed, path), self._answered)

    async def read(self, path: str, start: int, stop: int, etag: str) -> Tuple[bytearray, bool]:
        """Bytes ``start`` to before ``stop`` of the version ``etag``, and whether the file is whole there."""
        data = bytearray(max(stop - start, 0))
        view, at, sealed = memoryview(data), 0, False
        async for piece, sealed in self.stream(path, start, stop, etag):
            view[at : at + len(piece)] = piece
            at += len(piece)
        return data, sealed

    async def stream(self, path: str, start: int, stop: int, etag: str) -> AsyncIterator[Tuple[bytes, bool]]:
        """As :meth:`read`, piece by piece; goes on where a connection broke."""
        attempts = _Attempts()
        at = start
        while at < stop:
            headers = {"Range": f"bytes={at}-{stop - 1}", "If-Match": f'"{etag}"'}
            try:
                async with self._request(path, {}, headers) as answer:
                    sealed = answer.headers.get("x-emberline-state") == "sealed"
                    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                        at += len(piece)
                        attempts.gained()
                        yield piece, sealed
                if at < stop:
                    raise made(Unavailable, errno.EIO, f"the answer ended at byte {at} of {stop}", path)
            except Exception as failed:
                await attempts.again(self._explained(failed, path), self._answered)

    async def close(self) -> None:
        """Closes connections; the next question opens new ones."""
        session, self._session = self._session, None
        if session is not None and self._home == (os.getpid(), asyncio.get_running_loop()):
            await session.close()

    def _request(self, path: str, query: Query, headers: Dict[str, str]) -> _Answer:
        try:
            encoded = quote(path, safe="/")
        except UnicodeEncodeError:
            raise made(Invalid, errno.EINVAL, "the name is not Unicode text", path) from None
        url = URL(f"{self.url}/v1/fs/{encoded}".rstrip("/"), encoded=True)
        return _Answer(self, path, url, query, {**self._authorization(), **headers})

    def _authorization(self) -> Dict[str, str]:
        file = self._token_file or os.environ.get("EMBERLINE_TOKEN_FILE")
        if not file:
            return {}
        try:
            # Read each time: it is small, and may be renewed.
            with open(file, encoding="ascii") as text:
                return {"Authorization": f"Bearer {text.read().strip()}"}
        except (OSError, UnicodeDecodeError) as unreadable:
            raise made(Denied, errno.EACCES, f"the agent's token cannot be read: {unreadable}", file) from None

    def connected(self) -> aiohttp.ClientSession:
        """The connections of this process and loop."""
        home = (os.getpid(), asyncio.get_running_loop())
        if self._session is None or self._session.closed or self._home != home:
            if self._session is not None and self._home is not None and self._home[0] != home[0]:
                _inherited.append(self._session)
            connector = aiohttp.TCPConnector(limit=64)
            # The agent is a neighbour: no proxy of the environment stands between.
            self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
            self._home = home
            weakref.finalize(self, _let_go, home, self._session)
        return self._session

    def answered(self) -> None:
        """Somebody listens there."""
        self._answered = True

    def _explained(self, failed: Exception, path: str) -> Exception:
        if isinstance(failed, EmberlineError):
            return failed
        if isinstance(failed, asyncio.TimeoutError):
            return made(TimedOut, errno.ETIMEDOUT, f"{self.url} did not answer in time", path)
        if isinstance(failed, aiohttp.ClientConnectionError):
            advice = "start one with `preload agent`, or name another by EMBERLINE_AGENT"
            return made(Unreachable, errno.ECONNREFUSED, f"no agent answers at {self.url}: {failed}", path, advice)
        if isinstance(failed, aiohttp.ClientPayloadError):
            return made(Unavailable, errno.EIO, f"the agent broke off: {failed}", path)
        if isinstance(failed, (aiohttp.ClientError, ValueError)):
            return made(Invalid, errno.EINVAL, f"{self.url} is no Emberline agent: {failed}", path)
        return failed


def _let_go(home: Tuple[int, asyncio.AbstractEventLoop], session: aiohttp.ClientSession) -> None:
    """Closes the connections of an agent that nobody holds any more, from whatever thread notices."""
    pid, loop = home
    if pid != os.getpid():
        _inherited.append(session)
        return
    if session.closed:
        return
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)
    elif session.connector is not None:
        # Without a loop there is nobody to wait for the connections' ends.
        session.connector._close()


class _Answer:
    """A request under way; its answer is one that has what was asked for, or the problem is raised."""

    def __init__(self, agent: Agent, path: str, url: URL, query: Query, headers: Dict[str, str]) -> None:
        self._agent, self._path = agent, path
        self._asked = {"url": url.with_query(dict(query)) if query else url, "headers": headers}
        self._answer: Optional[aiohttp.ClientResponse] = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        session = self._agent.connected()
        answer = await session.get(allow_redirects=False, **self._asked)  # type: ignore[arg-type]
        self._agent.answered()
        if answer.status in (200, 206):
            self._answer = answer
            return answer
        try:
            problem = await answer.json(content_type=None)
        except (ValueError, aiohttp.ClientError):
            problem = None
        finally:
            answer.release()
        raise of_problem(answer.status, problem, self._path)

    async def __aexit__(self, *_: Any) -> None:
        if self._answer is not None:
            # What was not read to its end leaves a connection that cannot be used again.
            self._answer.release() if self._answer.content.at_eof() else self._answer.close()


class _Attempts:
    """How often something was tried without a byte of progress."""

    def __init__(self) -> None:
        self._failed = 0

    def gained(self) -> None:
        self._failed = 0

    async def again(self, failed: Exception, was_there: bool) -> None:
        """Waits before the next attempt, or raises what went wrong."""
        passing = isinstance(failed, Unavailable) and (was_there or not isinstance(failed, Unreachable))
        if not passing or self._failed >= RETRIES:
            raise failed
        self._failed += 1
        told = failed.retry_after_seconds if isinstance(failed, EmberlineError) else None
        wait = told if told is not None else 0.1 * 2.0**self._failed
        if wait > RETRY_WAIT_MAX_SECONDS:
            raise failed
        await asyncio.sleep(wait)
