"""safetensors in the order in which they arrive, and whole files by their path.

A tensor is given out as soon as its bytes are here, whichever tensor that is, so a model can be moved to its
device while the rest of it is on its way. Every byte was checked against its hash by the agent before. What the
origin promises of a whole file (its digest) can only be checked when the file is whole: that is waited for at the
end, before the iteration ends without an error.
"""

from __future__ import annotations

import asyncio
import errno
import json
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from fsspec.asyn import sync

from .errors import Changed, Corrupt, Invalid, NotFound, TimedOut, made
from .filesystem import EmberlineFileSystem
from .local import open_whole
from .reference import namespace_path

#: What safetensors itself takes.
HEADER_BYTES_MAX = 100_000_000
#: Nothing came for so long: the next bytes are asked for, instead of waiting for any.
QUIET_SECONDS = 1.0
#: So many files are waited for at once.
WAITED_MAX = 16

# By the names of safetensors; where the second is None, numpy alone has no such type.
_DTYPES: Dict[str, Tuple[str, Optional[str]]] = {
    "F64": ("float64", "float64"),
    "F32": ("float32", "float32"),
    "F16": ("float16", "float16"),
    "BF16": ("bfloat16", None),
    "F8_E4M3": ("float8_e4m3fn", None),
    "F8_E5M2": ("float8_e5m2", None),
    "I64": ("int64", "int64"),
    "I32": ("int32", "int32"),
    "I16": ("int16", "int16"),
    "I8": ("int8", "int8"),
    "U64": ("uint64", "uint64"),
    "U32": ("uint32", "uint32"),
    "U16": ("uint16", "uint16"),
    "U8": ("uint8", "uint8"),
    "BOOL": ("bool", "bool"),
}


class Tensor(NamedTuple):
    """Where a tensor stands in its file."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    start: int
    stop: int


def load_file(
    reference: str,
    framework: str = "np",
    device: Optional[str] = None,
    fs: Optional[EmberlineFileSystem] = None,
) -> Iterator[Tuple[str, Any]]:
    """Yields ``(name, tensor)`` of a safetensors file, or of all of them in a directory, as they arrive.

    ``framework`` is ``"np"`` or ``"pt"``; ``device`` is where PyTorch puts them. Ends when every tensor was given
    out and every file is whole, checked against what its origin promises, and read by safetensors itself. Raises
    ``Corrupt`` if one is not what it should be, and ``Changed`` if one was replaced: what was yielded is then void.
    """
    frame = _Frame(framework, device)
    fs = fs or EmberlineFileSystem()
    files = [_File(path) for path in _files(fs, namespace_path(reference))]
    pending = list(files)
    for file in files:
        file.update(sync(fs.loop, fs.presence, file.path))
    while pending:
        progress = False
        for file in pending:
            for tensor, value in _arrived(fs, file, frame):
                progress = True
                yield tensor.name, value
        pending = [file for file in pending if file.missing is None or file.missing]
        if pending and not progress:
            _wait(fs, pending[:WAITED_MAX])
    for file in files:
        _check(fs, file)


def local_path(reference: str, fs: Optional[EmberlineFileSystem] = None) -> str:
    """The path of a file on this machine's disk, once it is whole; for what opens or maps paths itself.

    The path stays while the agent keeps the artifact: open it, or pin the artifact, before relying on it.
    """
    fs = fs or EmberlineFileSystem()
    path = namespace_path(reference)
    whole = open_whole(_sealed(fs, path))
    if whole is None:
        raise made(NotFound, errno.ENOENT, f"the agent at {fs.agent.url} has it, but not on a disk seen here", path)
    with whole:
        return str(whole.name)


@dataclass
class _File:
    path: str
    etag: Optional[str] = None
    presence: Dict[str, Any] = field(default_factory=dict)
    tensors: Dict[str, Tensor] = field(default_factory=dict)
    # None until the header is here.
    missing: Optional[List[Tensor]] = None
    #: Nothing new came: ask for its next bytes instead of waiting for any.
    is_stuck: bool = False

    def update(self, presence: Dict[str, Any]) -> None:
        if self.etag is not None and presence["etag"] != self.etag:
            raise made(Changed, errno.ESTALE, "was replaced while it was loaded", self.path)
        self.etag = presence["etag"]
        self.presence = presence

    def has(self, start: int, stop: int) -> bool:
        if self.presence["state"] == "sealed":
            return True
        return any(first <= start and stop <= last for first, last in self.presence["here"])

    def header(self, text: bytes, start: int) -> None:
        """Takes the header; the bytes of tensors begin at ``start``."""
        size = self.presence["bytes"]
        try:
            listed = json.loads(text)
            listed.pop("__metadata__", None)
            for name, told in listed.items():
                first, last = (int(offset) for offset in told["data_offsets"])
                shape = tuple(int(n) for n in told["shape"])
                if not 0 <= first <= last <= size - start:
                    raise ValueError(f"{name} is past its end")
                self.tensors[name] = Tensor(name, str(told["dtype"]), shape, start + first, start + last)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
            raise made(Invalid, errno.EINVAL, f"is no safetensors file: {wrong}", self.path) from None
        self.missing = sorted(self.tensors.values(), key=lambda tensor: (tensor.start, tensor.stop))


def _files(fs: EmberlineFileSystem, path: str) -> List[str]:
    if fs.info(path)["type"] == "file":
        return [path]
    found = [info["name"] for info in fs.ls(path) if info["name"].endswith(".safetensors")]
    if not found:
        raise made(NotFound, errno.ENOENT, "has no safetensors in it", path)
    return found


def _arrived(fs: EmberlineFileSystem, file: _File, frame: _Frame) -> Iterator[Tuple[Tensor, Any]]:
    """What is here of a file and was not given out yet."""
    whole = open_whole(file.presence) if fs.local else None
    if whole is not None:
        with whole:
            yield from _from_disk(file, str(whole.name), frame)
        return
    if file.missing is None:
        if not (file.has(0, min(8, file.presence["bytes"])) or file.is_stuck):
            return
        _read_header(fs, file)
    assert file.missing is not None
    ready = [tensor for tensor in file.missing if file.has(tensor.start, tensor.stop)]
    if file.is_stuck and not ready:
        ready, file.is_stuck = file.missing[:1], False
    for tensor in ready:
        data, _sealed = sync(fs.loop, fs.agent.read, file.path, tensor.start, tensor.stop, file.etag)
        file.missing.remove(tensor)
        yield tensor, frame.of_bytes(tensor, data, file.path)


def _from_disk(file: _File, path: str, frame: _Frame) -> Iterator[Tuple[Tensor, Any]]:
    from safetensors import safe_open

    if file.missing is None:
        with open(path, "rb") as opened:
            length = _header_length(opened.read(8), file)
            file.header(opened.read(length), 8 + length)
    assert file.missing is not None
    with safe_open(path, framework=frame.name, **frame.placed()) as tensors:
        while file.missing:
            tensor = file.missing[0]
            frame.check(tensor, file.path)
            value = tensors.get_tensor(tensor.name)
            file.missing.pop(0)
            yield tensor, value


def _read_header(fs: EmberlineFileSystem, file: _File) -> None:
    size = file.presence["bytes"]
    opening, _ = sync(fs.loop, fs.agent.read, file.path, 0, min(8, size), file.etag)
    length = _header_length(bytes(opening), file)
    text, _ = sync(fs.loop, fs.agent.read, file.path, 8, 8 + length, file.etag)
    file.header(bytes(text), 8 + length)


def _header_length(opening: bytes, file: _File) -> int:
    length = int(struct.unpack("<Q", opening)[0]) if len(opening) == 8 else HEADER_BYTES_MAX + 1
    if length > min(HEADER_BYTES_MAX, file.presence["bytes"] - 8):
        raise made(Invalid, errno.EINVAL, "is no safetensors file: its header does not fit", file.path)
    return length


def _wait(fs: EmberlineFileSystem, files: List[_File]) -> None:
    """Until more of one of these files is here."""
    before = {file.path: file.presence["here_bytes"] for file in files}
    told = sync(fs.loop, _first, fs, before)
    for file in files:
        if file.path in told:
            file.update(told[file.path])
    files[0].is_stuck = not told


async def _first(fs: EmberlineFileSystem, before: Dict[str, int]) -> Dict[str, Dict[str, Any]]:
    tasks = {asyncio.ensure_future(fs.presence(path, more_than=here)): path for path, here in before.items()}
    try:
        done, _ = await asyncio.wait(tasks, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return {tasks[task]: task.result() for task in done}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sealed(fs: EmberlineFileSystem, path: str) -> Dict[str, Any]:
    """What the agent says of a file when it is whole."""
    here = -1
    while True:
        told: Dict[str, Any] = sync(fs.loop, fs.presence, path, sealed=True)
        if told["state"] == "sealed":
            return told
        if told["here_bytes"] <= here:
            raise made(TimedOut, errno.ETIMEDOUT, "no more of it comes", path)
        here = told["here_bytes"]


def _check(fs: EmberlineFileSystem, file: _File) -> None:
    """That a file is what it was said to be, now that it is whole."""
    if file.presence["state"] != "sealed":
        file.update(_sealed(fs, file.path))
    whole = open_whole(file.presence) if fs.local else None
    if whole is None:
        # The agent checked it; here it cannot be read.
        return
    from safetensors import safe_open

    with whole, safe_open(str(whole.name), framework="np") as tensors:
        names = set(tensors.keys())
        if names != set(file.tensors):
            raise made(Corrupt, errno.EIO, "safetensors finds other tensors in it", file.path)
        for name in names:
            found, told = tensors.get_slice(name), file.tensors[name]
            if (tuple(found.get_shape()), found.get_dtype()) != (told.shape, told.dtype):
                raise made(Corrupt, errno.EIO, f"safetensors finds another {name} in it", file.path)


class _Frame:
    """The library that tensors are made for."""

    def __init__(self, name: str, device: Optional[str]) -> None:
        if name not in ("np", "numpy", "pt", "torch"):
            raise ValueError(f"framework {name!r} is neither np nor pt")
        self.name = "pt" if name in ("pt", "torch") else "np"
        self.device = device
        if device is not None and self.name == "np":
            raise ValueError("numpy has no devices")

    def placed(self) -> Dict[str, str]:
        return {} if self.device is None else {"device": self.device}

    def check(self, tensor: Tensor, path: str) -> None:
        """Refuses what the library has no type for."""
        self.dtype(tensor, path)

    def dtype(self, tensor: Tensor, path: str) -> Any:
        names = _DTYPES.get(tensor.dtype)
        if names is not None and self.name == "pt":
            import torch

            found = getattr(torch, names[0], None)
            if found is not None:
                return found
        elif names is not None and names[1] is not None:
            import numpy

            return numpy.dtype(names[1])
        library = "PyTorch" if self.name == "pt" else "numpy"
        advice = None if self.name == "pt" else 'use framework="pt"'
        text = f"{library} has no type for {tensor.name}, which is {tensor.dtype}"
        raise made(Invalid, errno.EINVAL, text, path, advice)

    def of_bytes(self, tensor: Tensor, data: bytearray, path: str) -> Any:
        dtype = self.dtype(tensor, path)
        count = 1
        for length in tensor.shape:
            count *= length
        wrong = made(Invalid, errno.EINVAL, f"is no safetensors file: {tensor.name} has another size", path)
        if self.name == "pt":
            import torch

            # Neither is there a tensor over no bytes, nor did types tell their size before PyTorch 2.1.
            none = torch.empty(0, dtype=dtype)
            if count * none.element_size() != len(data):
                raise wrong
            shaped = (torch.frombuffer(data, dtype=dtype) if data else none).reshape(tensor.shape)
            return shaped if self.device is None else shaped.to(self.device)
        import numpy

        if count * int(dtype.itemsize) != len(data):
            raise wrong
        return numpy.frombuffer(data, dtype=dtype).reshape(tensor.shape)
