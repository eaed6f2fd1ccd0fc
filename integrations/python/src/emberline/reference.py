"""References: what a person types, and where that stands in the agent's one namespace.

``ember://`` is the namespace itself; the schemes of origins stand below a name of their own there.
"""

from __future__ import annotations

import errno
from typing import List

from .errors import Invalid, made

SCHEMES = ("ember", "emberline")
_ORIGINS = ("s3", "gs", "az", "hdfs", "http", "https")


def namespace_path(reference: str) -> str:
    """Where ``reference`` stands in the namespace, without a slash at either end.

    ``ember://s3/bucket/key`` and ``s3://bucket/key`` are ``s3/bucket/key``; ``hf://org/name@rev/file`` is
    ``hf/org/name/rev/file``; a text without a scheme is a path already.
    """
    scheme, separator, rest = reference.partition("://")
    if not separator:
        return reference.strip("/")
    if scheme in SCHEMES:
        return rest.strip("/")
    if scheme in _ORIGINS:
        return f"{scheme}/{rest.strip('/')}"
    if scheme == "hf":
        return _hub(reference, rest.strip("/"))
    known = ", ".join(f"{name}://" for name in (SCHEMES[0], "hf", *_ORIGINS))
    raise made(Invalid, errno.EINVAL, f"unknown scheme {scheme}://", reference, f"known are {known}")


def _hub(reference: str, rest: str) -> str:
    parts = rest.split("/")
    kind: List[str] = []
    if parts[0] in ("datasets", "spaces", "models"):
        kind = [] if parts[0] == "models" else [parts[0]]
        parts = parts[1:]
    if len(parts) < 2:
        raise made(Invalid, errno.EINVAL, "not of the form hf://org/name[@revision][/file]", reference)
    name, at, revision = parts[1].partition("@")
    revision = revision if at else "main"
    # As in the namespace: a slash in a revision is written %2F.
    return "/".join(["hf", *kind, parts[0], name, revision.replace("/", "%2F"), *parts[2:]])
