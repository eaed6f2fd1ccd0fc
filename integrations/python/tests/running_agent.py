"""A real agent. Its program is ``EMBERLINE_TEST_AGENT``, else what cargo built last."""

import json
import os
import pathlib
import subprocess
import time

import emberline

ROOT = pathlib.Path(__file__).resolve().parents[3]
READY_SECONDS = 60


class RunningAgent:
    """An agent on a directory of its own."""

    def __init__(self, home, mounts, token=None, config="", cluster=None):
        """``cluster`` is a secret's file and the addresses of members."""
        self.home = home
        self.data = home / "data"
        names = "".join(f"{name} = {json.dumps(reference)}\n" for name, reference in mounts.items())
        (home / "agent.toml").write_text(
            f'[namespace]\nlisting_ttl = "1us"\n[mounts]\n{names}\n{config}', encoding="utf-8"
        )
        self.token_file = None
        self.environment = {**os.environ}
        for name in list(self.environment):
            if name.startswith(("EMBERLINE_", "AWS_", "HADOOP_", "LD_")):
                del self.environment[name]
        if token is not None:
            self.token_file = home / "token"
            self.token_file.write_text(token, encoding="ascii")
            self.token_file.chmod(0o600)
            self.environment["EMBERLINE_HTTP__TOKEN_FILE"] = str(self.token_file)
        secret, seeds = cluster or (None, [])
        self.joining = ["--secret-file", str(secret)] if secret else []
        for seed in seeds:
            self.joining += ["--seed", seed]
        self.log = open(home / "agent.log", "ab")
        self.start()

    def start(self, http="127.0.0.1:0"):
        program = os.environ.get("EMBERLINE_TEST_AGENT") or ROOT / "target/debug/emberline-agent"
        told = self.data / "agent.json"
        told.unlink() if told.exists() else None
        command = [str(program), "--config", str(self.home / "agent.toml"), "--data-dir", str(self.data)]
        command += ["--http", http, "--listen", "127.0.0.1:0", "--name", self.home.name, *self.joining]
        self.process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < deadline, self.log_text()
            try:
                bound = json.loads(told.read_text())
                self.address, self.member = bound["http"], bound["quic"]
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
