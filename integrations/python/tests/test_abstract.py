"""fsspec's own abstract suite: every test of it that only reads from the file system under test.

``AbstractGetTests`` is all of that; ``AbstractCopyTests``, ``AbstractPutTests``, ``AbstractPipeTests`` and
``AbstractOpenTests`` (one test, of exclusive creation) write. What the suite would make through the file system is
made in the directory that is the agent's origin.
"""

import shutil

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract


class ThroughTheOrigin:
    """The file system under test for reading, and its origin for writing: what the suite's fixtures call."""

    def __init__(self, fs, base, directory):
        self._fs, self._base, self._directory = fs, base, directory
        self._local = LocalFileSystem(auto_mkdir=True)

    def __getattr__(self, name):
        return getattr(self._fs, name)

    def _at(self, path):
        assert str(path).startswith(self._base), path
        return str(self._directory) + str(path)[len(self._base) :]

    def touch(self, path):
        self._local.touch(self._at(path))

    def mkdir(self, path):
        self._local.makedirs(self._at(path), exist_ok=True)

    makedirs = mkdir

    def pipe(self, path, value):
        self._local.pipe(self._at(path), value)

    def rm(self, path, recursive=False):
        self._local.rm(self._at(path), recursive=recursive)


class Fixtures(abstract.AbstractFixtures):
    LOCAL = True

    @pytest.fixture
    def fs(self, agent, origin, request):
        directory = origin / "abstract"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return ThroughTheOrigin(agent.fs(local=self.LOCAL), "data/abstract", directory)

    @pytest.fixture
    def fs_path(self):
        return "data/abstract"

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self):
        return False


@pytest.mark.client("fsspec", "its abstract suite for reading, from the disk")
class TestGet(Fixtures, abstract.AbstractGetTests):
    pass


@pytest.mark.client("fsspec", "its abstract suite for reading, over HTTP")
class TestGetOverHttp(Fixtures, abstract.AbstractGetTests):
    LOCAL = False
