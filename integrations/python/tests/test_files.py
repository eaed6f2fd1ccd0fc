"""Files and directories through fsspec: what is there, what is in it, and when."""

import asyncio
import hashlib
import io
import mmap
import multiprocessing
import os
import pickle
import random
import threading
import time

import fsspec
import pytest

import emberline
from emberline.errors import Changed
from emberline.local import LocalFile
from emberline.streams import RemoteFile

MIB = 1 << 20


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def folder(origin, request):
    directory = origin / request.node.name.replace("[", "-").replace("]", "")
    directory.mkdir()
    return directory


def until_whole(fs, path):
    deadline = time.monotonic() + 60
    while True:
        told = fsspec.asyn.sync(fs.loop, fs.presence, path, sealed=True)
        if told["state"] == "sealed":
            return told
        assert time.monotonic() < deadline, told


def test_a_url_is_enough(agent, folder, monkeypatch):
    (folder / "a b%ü.txt").write_text("hello")
    monkeypatch.setenv("EMBERLINE_AGENT", agent.url)
    with fsspec.open(f"ember://data/{folder.name}/a b%ü.txt", "rt") as file:
        assert file.read() == "hello"
    assert "ember" in fsspec.available_protocols()
    fs, path = fsspec.url_to_fs(f"ember://data/{folder.name}/")
    assert isinstance(fs, emberline.EmberlineFileSystem) and path == f"data/{folder.name}"


def test_listings_go_on_past_one_page(fs, folder):
    names = [f"{n:05}" for n in range(2345)]
    for name in names:
        (folder / name).touch()
    (folder / "below").mkdir()
    (folder / "below" / "x").write_text("x")
    path = f"data/{folder.name}"
    found = fs.ls(path, detail=False)
    assert found == [f"{path}/{name}" for name in names] + [f"{path}/below"]
    assert len(fs.find(path)) == len(names) + 1
    assert fs.find(path, withdirs=True)[0] == path
    assert fs.glob(f"{path}/0123?") == [f"{path}/0123{n}" for n in range(10)]
    assert sorted(fs.glob(f"{path}/**/x")) == [f"{path}/below/x"]
    assert fs.du(path) == 1


def test_what_is_there_is_told_as_other_file_systems_tell_it(fs, folder):
    (folder / "m").write_bytes(b"12345")
    os.utime(folder / "m", (1_700_000_000, 1_700_000_000))
    path = f"data/{folder.name}/m"
    info = fs.info(path)
    assert (info["name"], info["size"], info["type"]) == (path, 5, "file")
    assert fs.modified(path).timestamp() == 1_700_000_000
    assert fs.isfile(path) and not fs.isdir(path) and fs.isdir(f"data/{folder.name}") and fs.isdir("")
    assert fs.exists(path) and not fs.exists(path + "x") and fs.size(path) == 5
    assert fs.ls(path) == [info] and fs.find(path) == [path]
    assert {"data", "s3", "hf", "https"} <= {entry["name"] for entry in fs.ls("")}
    before = fs.checksum(path)
    assert before == fs.checksum(path)
    (folder / "m").write_bytes(b"123456")
    assert before != fs.checksum(path) and fs.info(path)["size"] == 6


def test_ranges_are_python_slices(fs, agent, folder):
    content = noise(3 * MIB + 7)
    (folder / "m").write_bytes(content)
    path = f"data/{folder.name}/m"
    for served in (agent.fs(local=False), fs):
        for start, end in [(0, 1), (5, 5), (None, 10), (-10, None), (-10, -3), (MIB, 2 * MIB + 1), (10, 3), (None, None)]:
            assert served.cat_file(path, start, end) == content[start:end], (start, end)
        assert served.cat_file(path, 3 * MIB, 99 * MIB) == content[3 * MIB :]
        assert served.cat_ranges([path, path], [0, 7], [3, 9]) == [content[:3], content[7:9]]
        assert served.head(path, 9) == content[:9] and served.tail(path, 9) == content[-9:]
    assert fs.cat([path]) == {path: content}
    assert fs.read_block(path, 10, 20) == content[10:30]


@pytest.mark.client("fsspec", "a whole file by its path, mapped")
def test_a_whole_file_is_opened_by_its_path_and_asks_no_agent_any_more(make_agent, origin, folder):
    content = noise(2 * MIB)
    (folder / "m").write_bytes(content)
    agent = make_agent({"data": f"file://{origin}"})
    fs, path = agent.fs(), f"data/{folder.name}/m"
    told = until_whole(fs, path)
    with fs.open(path) as file:
        assert isinstance(file, LocalFile) and file.size == len(content)
        assert os.stat(file.local_path).st_ino == told["local"]["inode"]
        assert not os.path.samefile(file.local_path, folder / "m"), "the agent's copy, not the origin"
        agent.stop()
        assert file.read() == content
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == content
        file.seek(100)
        assert file.read(10) == content[100:110]


def test_a_path_that_leads_to_another_file_is_not_taken(fs, agent, folder, monkeypatch):
    (folder / "m").write_bytes(b"right")
    path = f"data/{folder.name}/m"
    told = until_whole(fs, path)
    wrong = folder / "elsewhere"
    wrong.write_bytes(b"wrong")
    open_whole = emberline.local.open_whole
    assert open_whole(told) is not None
    for key, value in [
        ("path", str(wrong)),
        ("path", "/nowhere"),
        ("inode", told["local"]["inode"] + 1),
        ("device", told["local"]["device"] + 1),
        ("boot_id", "another machine"),
    ]:
        assert open_whole({**told, "local": {**told["local"], key: value}}) is None, key
    assert open_whole({**told, "local": None}) is None
    # Then HTTP serves as well.
    monkeypatch.setattr(emberline.local, "_boot_id", lambda: "this one")
    with fs.open(path) as file:
        assert isinstance(file, RemoteFile) and file.read() == b"right"


def test_a_file_is_read_while_it_comes_and_from_the_disk_once_it_is_whole(make_agent, make_site):
    site = make_site(bytes_per_second=4 * MIB)
    content = noise(16 * MIB)
    (site.root / "m").write_bytes(content)
    fs = make_agent({}).fs()
    path = f"{site.path}/m"
    began = time.monotonic()
    with fs.open(path) as file:
        assert isinstance(file, RemoteFile)
        file.seek(-1000, io.SEEK_END)
        assert file.read() == content[-1000:]
        early = site.relay.delivered
        assert early < len(content) * 0.8, f"{early} bytes came for the last thousand"
        assert not file._whole, "it is not whole yet"
        file.seek(0)
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(content).digest()
        took = time.monotonic() - began
        until_whole(fs, path)
        file.seek(MIB)
        file.cache = type(file.cache)(file.blocksize, file._fetch_range, file.size)
        file.read(10)
        file.seek(9 * MIB)
        assert file.read(1000) == content[9 * MIB : 9 * MIB + 1000]
        assert file._whole, "it reads from the disk"
    assert took > 2, f"the origin was not slow: {took} s"
    assert site.relay.delivered < 1.1 * len(content), "the origin was read once"


def test_readers_that_come_together_read_the_origin_once(make_agent, make_site):
    site = make_site(bytes_per_second=16 * MIB)
    content = noise(16 * MIB)
    (site.root / "m").write_bytes(content)
    agent = make_agent({})
    got = []

    def read():
        with agent.fs().open(f"{site.path}/m") as file:
            got.append(hashlib.sha256(file.read()).hexdigest())

    threads = [threading.Thread(target=read) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert got == [hashlib.sha256(content).hexdigest()] * 4
    assert site.relay.delivered < 1.1 * len(content), site.relay.delivered / len(content)


def test_a_file_that_is_replaced_while_it_is_read_is_never_a_mixture(make_agent, make_site):
    site = make_site(bytes_per_second=8 * MIB)
    (site.root / "m").write_bytes(b"1" * (24 * MIB))
    fs = make_agent({}).fs(local=False)
    with fs.open(f"{site.path}/m", block_size=MIB) as file:
        assert set(file.read(MIB)) == {ord("1")}
        (site.root / "new").write_bytes(b"2" * (24 * MIB))
        os.replace(site.root / "new", site.root / "m")
        time.sleep(1.1)
        with pytest.raises(OSError) as failed:
            while True:
                piece = file.read(MIB)
                assert piece and set(piece) == {ord("1")}
        assert isinstance(failed.value, emberline.EmberlineError), failed.value
        assert isinstance(failed.value, Changed) or "changed" in str(failed.value), failed.value


def test_get_copies_while_it_comes_and_after(make_agent, make_site, tmp_path):
    site = make_site(bytes_per_second=8 * MIB)
    content = noise(8 * MIB)
    (site.root / "m").write_bytes(content)
    fs = make_agent({}).fs()
    seen = []

    class Callback(fsspec.callbacks.Callback):
        def relative_update(self, inc=1):
            seen.append(inc)

    fs.get_file(f"{site.path}/m", str(tmp_path / "one"), callback=Callback())
    until_whole(fs, f"{site.path}/m")
    fs.get(f"{site.path}/m", str(tmp_path / "two"))
    assert (tmp_path / "one").read_bytes() == content == (tmp_path / "two").read_bytes()
    assert sum(seen) == len(content) and len(seen) > 2


def test_a_file_system_and_its_files_are_pickled(agent, folder):
    (folder / "m").write_bytes(b"0123456789")
    path = f"data/{folder.name}/m"
    for local in (True, False):
        fs = agent.fs(local=local)
        until_whole(fs, path)
        again = pickle.loads(pickle.dumps(fs))
        assert again.cat_file(path) == b"0123456789" and again.local is local
        with fs.open(path) as file:
            file.seek(4)
            with pickle.loads(pickle.dumps(file)) as copy:
                assert type(copy) is type(file) and copy.read() == b"456789"


def _in_child(fs, path, answers):
    try:
        answers.put(fs.cat_file(path))
    except BaseException as failed:
        answers.put(repr(failed))


@pytest.mark.client("fsspec", "forked and spawned processes go on with it")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_goes_on_with_it(agent, folder, method):
    (folder / "m").write_bytes(b"weights")
    path = f"data/{folder.name}/m"
    fs = agent.fs(local=False)
    assert fs.cat_file(path) == b"weights", "connected before the fork"
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [context.Process(target=_in_child, args=(fs, path, answers), daemon=True) for _ in range(2)]
    [child.start() for child in children]
    assert [answers.get(timeout=60) for _ in children] == [b"weights"] * 2
    [child.join() for child in children]
    assert fs.cat_file(path) == b"weights", "and the parent still can"


@pytest.mark.client("fsspec", "coroutines")
def test_coroutines_read_at_the_same_time(agent, folder):
    for n in range(20):
        (folder / f"{n}").write_bytes(bytes([n]) * 1000)

    async def read():
        fs = agent.fs(asynchronous=True, local=False)
        paths = [f"data/{folder.name}/{n}" for n in range(20)]
        got = await asyncio.gather(*[fs._cat_file(path) for path in paths])
        stream = await fs.open_async(paths[7])
        async with stream:
            pieces = [await stream.read(600), await stream.read(600), await stream.read()]
        found = await fs._find(f"data/{folder.name}")
        await fs.agent.close()
        return got, pieces, found

    got, pieces, found = asyncio.run(read())
    assert got == [bytes([n]) * 1000 for n in range(20)] and len(found) == 20
    assert pieces == [bytes([7]) * 600, bytes([7]) * 400, b""]


@pytest.mark.client("fsspec", "simplecache, filecache and blockcache on top")
def test_fsspecs_own_caches_stand_on_top(agent, folder, tmp_path):
    (folder / "m").write_bytes(noise(MIB))
    for protocol in ("simplecache", "filecache", "blockcache"):
        options = {"ember": {"agent": agent.url}, protocol: {"cache_storage": str(tmp_path / protocol)}}
        with fsspec.open(f"{protocol}::ember://data/{folder.name}/m", **options) as file:
            assert file.read() == (folder / "m").read_bytes()
    cached = agent.fs(use_listings_cache=True)
    before = cached.ls(f"data/{folder.name}")
    (folder / "n").touch()
    assert cached.ls(f"data/{folder.name}") == before
    cached.invalidate_cache()
    assert len(cached.ls(f"data/{folder.name}")) == 2


def test_an_agent_that_restarts_is_waited_for(make_agent, origin, folder):
    (folder / "m").write_bytes(b"weights")
    agent = make_agent({"data": f"file://{origin}"})
    fs, path = agent.fs(local=False), f"data/{folder.name}/m"
    assert fs.cat_file(path) == b"weights"
    address = agent.address
    agent.process.kill()
    agent.process.wait()
    restart = threading.Timer(0.3, agent.start, kwargs={"http": address})
    restart.start()
    try:
        assert fs.cat_file(path) == b"weights"
    finally:
        restart.join()


def test_a_local_path_is_had_when_the_file_is_whole(make_agent, make_site):
    site = make_site(bytes_per_second=8 * MIB)
    content = noise(8 * MIB)
    (site.root / "m.gguf").write_bytes(content)
    path = emberline.local_path(f"http://{site.relay.host}/m.gguf", fs=make_agent({}).fs())
    with open(path, "rb") as file:
        assert file.read() == content
