"""A web server as an origin: nginx behind a relay that counts bytes and holds all connections to one rate."""

import json
import pathlib
import shutil
import socket
import subprocess
import threading
import time

PIECE_BYTES = 32 << 10


def find_nginx():
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Nginx:
    """Serves one folder."""

    def __init__(self, root, home):
        program = find_nginx()
        assert program, "nginx is missing (apt-get install nginx-light)"
        self.home = pathlib.Path(home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        spaces = "".join(
            f"{name}_temp_path {home}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.home / "nginx.conf").write_text(
            f"daemon off; master_process off; user root; pid {home}/pid; error_log {home}/error.log;\n"
            f"events {{}}\nhttp {{ access_log {home}/access.log; {spaces}\n"
            f"server {{ listen 127.0.0.1:{self.port}; root {root}; }} }}\n"
        )
        self.process = subprocess.Popen(
            [program, "-p", str(home), "-c", str(self.home / "nginx.conf"), "-e", str(self.home / "error.log")],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Relay:
    """Counts what passes to clients, and lets ``bytes_per_second`` of it pass, all connections together."""

    def __init__(self, port, bytes_per_second=None):
        self.upstream = ("127.0.0.1", port)
        self.bytes_per_second = bytes_per_second
        self.delivered = 0
        self.connections = 0
        self._next = time.monotonic()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = "127.0.0.1:{}".format(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://{self.host}"

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            server = socket.create_connection(self.upstream)
            # Small buffers, so that what was counted was also wanted.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE_BYTES)
            for source, sink, counted in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, sink, counted), daemon=True).start()

    def _pass(self, source, sink, counted):
        try:
            while True:
                piece = source.recv(PIECE_BYTES)
                if not piece:
                    break
                if counted:
                    self._pace(len(piece))
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _pace(self, length):
        with self._lock:
            self.delivered += length
            if self.bytes_per_second is None:
                return
            now = time.monotonic()
            self._next = max(self._next, now - 0.05) + length / self.bytes_per_second
            wait = self._next - now
        if wait > 0:
            time.sleep(wait)


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
