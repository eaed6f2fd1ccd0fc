"""A real agent over a directory and over whatever origin the test wants.

The agent's program is ``EMBERLINE_TEST_AGENT``, else what cargo built last.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import time

import pytest

import emberline

from origin import Nginx, Relay

ROOT = pathlib.Path(__file__).resolve().parents[3]
READY_SECONDS = 60


class RunningAgent:
    """An agent on a directory of its own."""

    def __init__(self, home, mounts, token=None, config=""):
        self.home = home
        self.data = home / "data"
        names = "".join(f"{name} = {json.dumps(reference)}\n" for name, reference in mounts.items())
        (home / "agent.toml").write_text(
            f'[namespace]\nlisting_ttl = "1us"\n[mounts]\n{names}\n{config}', encoding="utf-8"
        )
        self.token_file = None
        self.environment = {**os.environ}
        for name in list(self.environment):
            if name.startswith("EMBERLINE_") or name.startswith("AWS_"):
                del self.environment[name]
        if token is not None:
            self.token_file = home / "token"
            self.token_file.write_text(token, encoding="ascii")
            self.token_file.chmod(0o600)
            self.environment["EMBERLINE_HTTP__TOKEN_FILE"] = str(self.token_file)
        self.log = open(home / "agent.log", "ab")
        self.start()

    def start(self, http="127.0.0.1:0"):
        program = os.environ.get("EMBERLINE_TEST_AGENT") or ROOT / "target/debug/emberline-agent"
        told = self.data / "agent.json"
        told.unlink() if told.exists() else None
        command = [str(program), "--config", str(self.home / "agent.toml"), "--data-dir", str(self.data)]
        command += ["--http", http, "--listen", "127.0.0.1:0", "--name", "pytest"]
        self.process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < deadline, self.log_text()
            try:
                bound = json.loads(told.read_text())
                self.address = bound["http"]
                self.fs().ls("")
                return
            except (OSError, ValueError):
                time.sleep(0.05)

    @property
    def url(self):
        return f"http://{self.address}"

    def fs(self, **options):
        options.setdefault("token_file", self.token_file and str(self.token_file))
        return emberline.EmberlineFileSystem(agent=self.url, skip_instance_cache=True, **options)

    def log_text(self):
        return (self.home / "agent.log").read_text(errors="replace")[-4000:]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


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


class Site:
    """A folder that is served, and the name that an agent has for it."""

    def __init__(self, home, bytes_per_second=None):
        self.root = home / "served"
        self.root.mkdir()
        (home / "nginx").mkdir()
        self.nginx = Nginx(self.root, home / "nginx")
        self.relay = Relay(self.nginx.port, bytes_per_second)
        self.path = f"http/{self.relay.host}"

    def list(self):
        """Writes the listing that a plain web server lacks."""
        files = [
            {"path": str(path.relative_to(self.root)), "size": path.stat().st_size}
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != "emberline-files.json"
        ]
        (self.root / "emberline-files.json").write_text(json.dumps({"files": files}))

    def stop(self):
        self.relay.stop()
        self.nginx.stop()


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
