"""``load_file``: tensors in the order in which they arrive, and safetensors' own reading in the end."""

import json
import struct

import pytest

import emberline
from emberline.errors import Changed, Invalid

numpy = pytest.importorskip("numpy")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

MIB = 1 << 20


def write_model(path, tensors=8, size=2 * MIB, seed=3):
    random = numpy.random.default_rng(seed)
    made = {f"layer.{n}": random.standard_normal((size // 4096, 1024), dtype=numpy.float32) for n in range(tensors)}
    made["empty"] = numpy.zeros((0, 4), dtype=numpy.int64)
    made["scalar"] = numpy.array(7, dtype=numpy.uint8)
    made["mask"] = numpy.array([True, False, True])
    safetensors_numpy.save_file(made, str(path), metadata={"format": "pt"})
    return path


def assert_equal(got, path):
    expected = safetensors_numpy.load_file(str(path))
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and numpy.array_equal(got[name], tensor), name


@pytest.mark.client("safetensors", "load_file in order of arrival equals its own reading")
def test_tensors_come_in_the_order_of_their_arrival(make_agent, make_site):
    site = make_site(bytes_per_second=12 * MIB)
    path = write_model(site.root / "model.safetensors", tensors=20, size=4 * MIB)
    fs = make_agent({}).fs()
    remote = f"{site.path}/model.safetensors"
    # Somebody else reads the end first: its bytes are here before those of the middle.
    with fs.open(remote) as file:
        file.seek(-3 * MIB, 2)
        file.read(3 * MIB)
    got, early = {}, 0
    for name, tensor in emberline.load_file(f"http://{site.relay.host}/model.safetensors", fs=fs):
        assert name not in got
        got[name] = tensor.copy()
        early += site.relay.delivered < 0.9 * path.stat().st_size
    assert_equal(got, path)
    order = [name for name in got if name.startswith("layer")]
    listed = [tensor.name for tensor in _in_file(path) if tensor.name.startswith("layer")]
    assert sorted(order) == sorted(listed)
    assert order.index(listed[-1]) < len(order) - 1, "the end, which was here, waited for the middle"
    assert early >= 3, "tensors are given out before the file is whole"
    assert site.relay.delivered < 1.1 * path.stat().st_size


def _in_file(path):
    from emberline.tensors import _File

    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    file = _File("x", presence={"bytes": len(data)})
    file.header(data[8 : 8 + length], 8 + length)
    return file.missing


def test_shards_of_a_directory_come_together(make_agent, origin):
    folder = origin / "sharded"
    folder.mkdir()
    for n in range(3):
        random = numpy.random.default_rng(n)
        tensors = {f"shard.{n}.{k}": random.standard_normal((64, 64), dtype=numpy.float32) for k in range(4)}
        safetensors_numpy.save_file(tensors, str(folder / f"model-{n}-of-3.safetensors"))
    (folder / "config.json").write_text("{}")
    agent = make_agent({"data": f"file://{origin}"})
    for fs in (agent.fs(local=False), agent.fs()):
        got = dict(emberline.load_file("ember://data/sharded", fs=fs))
        assert len(got) == 12
        for n in range(3):
            for name, tensor in safetensors_numpy.load_file(str(folder / f"model-{n}-of-3.safetensors")).items():
                assert numpy.array_equal(got[name], tensor)
    with pytest.raises(FileNotFoundError, match="safetensors"):
        (origin / "bare").mkdir()
        (origin / "bare" / "x").touch()
        list(emberline.load_file("ember://data/bare", fs=agent.fs()))


def test_a_whole_file_is_read_by_safetensors_itself(agent, origin, monkeypatch):
    path = write_model(origin / "whole.safetensors", tensors=2)
    fs = agent.fs()
    emberline.local_path("ember://data/whole.safetensors", fs=fs)
    asked = []
    stream = type(fs.agent).stream
    monkeypatch.setattr(type(fs.agent), "stream", lambda *a: asked.append(a) or stream(*a))
    assert_equal(dict(emberline.load_file("ember://data/whole.safetensors", fs=fs)), path)
    assert not asked, "bytes of a whole file come over HTTP"


def test_a_model_that_is_replaced_while_it_is_loaded_is_an_error(make_agent, make_site):
    site = make_site(bytes_per_second=4 * MIB)
    path = write_model(site.root / "model.safetensors")
    fs = make_agent({}).fs()
    loading = emberline.load_file(f"ember://{site.path}/model.safetensors", fs=fs)
    next(loading)
    write_model(site.root / "new", seed=4).replace(path)
    with pytest.raises(OSError) as failed:
        list(loading)
    assert isinstance(failed.value, Changed) or "changed" in str(failed.value), failed.value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 9) + b"\xff\xfe not u",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 30_000) + b"[" * 30_000,
    ]
    + [
        struct.pack("<Q", len(text)) + text + b"0123"
        for text in [
            json.dumps({"a": told}).encode()
            for told in [
                {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]},
                {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
                {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
                {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]},
                {"dtype": "F32", "shape": [1]},
                {"dtype": "Q4", "shape": [4], "data_offsets": [0, 4]},
                {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
                "nothing",
            ]
        ]
    ],
)
def test_what_is_no_safetensors_file_is_named(agent, origin, content):
    (origin / "wrong.safetensors").write_bytes(content)
    with pytest.raises(Exception) as failed:
        list(emberline.load_file("ember://data/wrong.safetensors", fs=agent.fs(local=False)))
    assert isinstance(failed.value, Invalid) and "wrong.safetensors" in str(failed.value), failed.value
