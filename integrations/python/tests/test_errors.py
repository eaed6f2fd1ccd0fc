"""What goes wrong is the exception that file systems raise, and says what to do."""

import errno
import pickle
import socket

import pytest

import emberline
from emberline import errors
from emberline.reference import namespace_path


def test_what_is_not_there(fs, origin):
    (origin / "directory").mkdir(exist_ok=True)
    (origin / "directory" / "m").touch()
    for ask in (fs.info, fs.open, fs.cat_file, fs.ls, fs.modified):
        with pytest.raises(FileNotFoundError) as failed:
            ask("data/no/such/file")
        assert failed.value.errno == errno.ENOENT and "no/such/file" in str(failed.value), ask
    with pytest.raises(FileNotFoundError, match="mounts"):
        fs.info("nothing-mounted/x")
    for ask in (fs.open, fs.cat_file, fs.modified):
        with pytest.raises(IsADirectoryError):
            ask("data/directory")
    with pytest.raises(ValueError):
        fs.info("s3/..evil/x")


#: What no name can be, and names that look as if they led somewhere else.
HOSTILE = [
    "data/../secret",
    "../secret",
    "data/./fine",
    "data//fine",
    "data/a\0b",
    "data/a\nb",
    "data/a\r\nx: y",
    "data/..\\secret",
    "data/" + "x" * 5000,
    "data/" + "x/" * 3000 + "y",
    "data/\udcff",
    "http/[::1/x",
]
ELSEWHERE = ["data/%2e%2e/secret", "data/%2E%2E%2fsecret", "data/fine?list", "data/fine#x", "data/fine/below"]


def test_hostile_names_are_refused_and_lead_nowhere(fs, origin):
    (origin / "fine").write_bytes(b"fine")
    (origin / "#a?b=1&c%41 ü").write_bytes(b"odd")
    (origin.parent / "secret").write_bytes(b"outside")
    for ask in (fs.info, fs.open, fs.cat_file, fs.ls):
        for name in HOSTILE:
            with pytest.raises(ValueError) as failed:
                ask(name)
            assert failed.value.errno == errno.EINVAL and "agent" not in str(failed.value), (ask, name)
        for name in ELSEWHERE:
            with pytest.raises(FileNotFoundError):
                ask(name)
        with pytest.raises(PermissionError, match="metadata"):
            ask("http/169.254.169.254/latest/meta-data")
    assert fs.cat_file("data/#a?b=1&c%41 ü") == b"odd" and fs.cat_file("data/fine") == b"fine"


def test_nothing_is_written(fs, tmp_path):
    (tmp_path / "m").touch()
    writes = [
        lambda: fs.open("data/new", "wb"),
        lambda: fs.open("data/new", "ab"),
        lambda: fs.pipe_file("data/new", b""),
        lambda: fs.pipe({"data/new": b""}),
        lambda: fs.put(str(tmp_path / "m"), "data/new"),
        lambda: fs.put_file(str(tmp_path / "m"), "data/new"),
        lambda: fs.touch("data/new"),
        lambda: fs.mkdir("data/new"),
        lambda: fs.makedirs("data/new"),
        lambda: fs.rmdir("data/new"),
        lambda: fs.rm_file("data/new"),
        lambda: fs.rm("data/new"),
        lambda: fs.cp_file("data/a", "data/b"),
        lambda: fs.mv("data/a", "data/b"),
    ]
    for number, write in enumerate(writes):
        with pytest.raises(OSError) as failed:
            write()
        assert failed.value.errno in (errno.EROFS, errno.ENOENT), (number, failed.value)
    assert not fs.exists("data/new")


def test_no_agent_says_how_to_start_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{}".format(free.getsockname()[1])
    fs = emberline.EmberlineFileSystem(agent=address, skip_instance_cache=True)
    with pytest.raises(ConnectionError, match="preload agent") as failed:
        fs.ls("")
    assert address in str(failed.value) and not fs.agent._answered


def test_something_else_that_listens_is_no_agent(make_site):
    site = make_site()
    fs = emberline.EmberlineFileSystem(agent=site.relay.url, skip_instance_cache=True)
    with pytest.raises(OSError) as failed:
        fs.ls("")
    assert isinstance(failed.value, emberline.EmberlineError)


def test_a_token_is_needed_where_the_agent_wants_one(make_agent, origin, monkeypatch, tmp_path):
    (origin / "secret").write_bytes(b"weights")
    agent = make_agent({"data": f"file://{origin}"}, token="canary-7f3a")
    assert agent.fs(token_file=str(agent.token_file)).cat_file("data/secret") == b"weights"
    bare = emberline.EmberlineFileSystem(agent=agent.url, skip_instance_cache=True)
    with pytest.raises(PermissionError, match="token") as failed:
        bare.cat_file("data/secret")
    monkeypatch.setenv("EMBERLINE_TOKEN_FILE", str(agent.token_file))
    assert bare.cat_file("data/secret") == b"weights"
    (tmp_path / "wrong").write_text("canary-other")
    wrong = agent.fs(token_file=str(tmp_path / "wrong"))
    with pytest.raises(PermissionError) as failed:
        wrong.ls("data")
    for told in (str(failed.value), repr(failed.value), repr(wrong), wrong.to_json(), repr(wrong.__dict__)):
        assert "canary" not in told
    with pytest.raises(PermissionError, match="cannot be read"):
        agent.fs(token_file="/no/such/file").ls("data")


def test_every_problem_of_the_agent_has_its_exception():
    for kind, builtin in [
        ("not_found", FileNotFoundError),
        ("denied", PermissionError),
        ("invalid", ValueError),
        ("timeout", TimeoutError),
        ("unavailable", OSError),
        ("corrupt", OSError),
        ("full", OSError),
        ("cancelled", OSError),
        ("of the future", OSError),
    ]:
        problem = {"kind": kind, "message": "why", "advice": "do this", "retry_after_seconds": 2}
        error = errors.of_problem(500, problem, "a/b")
        assert isinstance(error, builtin) and isinstance(error, OSError) and error.filename == "a/b"
        assert "why" in str(error) and "do this" in str(error) and error.errno
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        # As PyTorch raises again what a worker raised.
        assert isinstance(type(error)("text of a worker"), OSError)
    assert isinstance(errors.of_problem(412, {}, "x"), errors.Changed)
    assert isinstance(errors.of_problem(500, "html", "x"), emberline.EmberlineError)


def test_references_have_one_place_in_the_namespace():
    for reference, path in [
        ("ember://s3/bucket/key", "s3/bucket/key"),
        ("ember:///models/x/", "models/x"),
        ("emberline://models/x", "models/x"),
        ("models/x", "models/x"),
        ("s3://bucket/a/b", "s3/bucket/a/b"),
        ("https://host:8443/a", "https/host:8443/a"),
        ("hdfs://node:8020/a", "hdfs/node:8020/a"),
        ("hf://org/name", "hf/org/name/main"),
        ("hf://org/name@v1/a/b.json", "hf/org/name/v1/a/b.json"),
        ("hf://datasets/org/name@main/x", "hf/datasets/org/name/main/x"),
    ]:
        assert namespace_path(reference) == path
    for wrong in ("ftp://host/x", "hf://name"):
        with pytest.raises(ValueError):
            namespace_path(wrong)
