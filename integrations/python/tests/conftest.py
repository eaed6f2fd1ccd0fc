"""A real agent over a directory and over whatever origin the test wants."""

import importlib.metadata
import json
import os

import pytest

from origin import Site
from running_agent import RunningAgent


@pytest.fixture(scope="session")
def origin(tmp_path_factory):
    """A directory that the agent has mounted as ``data``."""
    return tmp_path_factory.mktemp("origin")


@pytest.fixture(scope="session")
def agent(tmp_path_factory, origin):
    running = RunningAgent(tmp_path_factory.mktemp("agent"), {"data": f"file://{origin}"})
    yield running
    running.stop()


@pytest.fixture
def make_agent(tmp_path):
    """Starts agents that one test wants for itself."""
    started = []

    def make(mounts, **options):
        home = tmp_path / f"agent-{len(started)}"
        home.mkdir()
        started.append(RunningAgent(home, mounts, **options))
        return started[-1]

    yield make
    for running in started:
        running.stop()


@pytest.fixture
def fs(agent):
    return agent.fs()


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch):
    for name in ("EMBERLINE_AGENT", "EMBERLINE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_site(tmp_path):
    """Starts origins that one test wants for itself."""
    started = []

    def make(bytes_per_second=None):
        home = tmp_path / f"site-{len(started)}"
        home.mkdir()
        started.append(Site(home, bytes_per_second))
        return started[-1]

    yield make
    for site in started:
        site.stop()


# What each client was seen to do, for who runs these tests: one line of JSON a passed check.


def pytest_configure(config):
    config.addinivalue_line("markers", "client(name, what): a check that this library did this through fsspec")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    records = os.environ.get("EMBERLINE_TEST_RECORDS")
    if records and call.when == "call" and outcome.get_result().passed:
        with open(records, "a", encoding="utf-8") as file:
            for marker in item.iter_markers("client"):
                name, what = marker.args
                told = {"client": name, "version": importlib.metadata.version(name), "what": what}
                file.write(json.dumps(told) + "\n")
