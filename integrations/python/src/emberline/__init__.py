"""Emberline for Python: ``ember://`` in fsspec, and safetensors in the order in which they arrive.

Talks to the agent of this machine and needs nothing else of Emberline. Which agent: ``EMBERLINE_AGENT``, else
``http://127.0.0.1:7580``; its token: the file that ``EMBERLINE_TOKEN_FILE`` names.
"""

from __future__ import annotations

from .errors import EmberlineError
from .filesystem import EmberlineFileSystem
from .reference import namespace_path
from .tensors import load_file, local_path

__all__ = ["EmberlineError", "EmberlineFileSystem", "load_file", "local_path", "namespace_path"]
__version__ = "0.1.0"
