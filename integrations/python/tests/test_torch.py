"""PyTorch reads through the file system, and a DataLoader reads a slow origin once."""

import pathlib

import pytest

import emberline

torch = pytest.importorskip("torch")

MIB = 1 << 20


@pytest.mark.client("torch", "torch.load, while it comes and after")
def test_torch_loads_while_it_comes_and_after(make_agent, make_site):
    site = make_site(bytes_per_second=8 * MIB)
    state = {"weight": torch.randn(1024, 1024), "bias": torch.arange(7), "half": torch.randn(9).bfloat16()}
    torch.save(state, str(site.root / "model.pt"))
    fs = make_agent({}).fs()
    for _ in range(2):
        with fs.open(f"{site.path}/model.pt") as file:
            got = torch.load(file)
        assert set(got) == set(state) and all(torch.equal(got[name], state[name]) for name in state)
        emberline.local_path(f"ember://{site.path}/model.pt", fs=fs)


@pytest.mark.client("safetensors", "load_file into PyTorch, bfloat16 included, equals its own reading")
def test_safetensors_arrive_as_torch_tensors(make_agent, make_site):
    safetensors_torch = pytest.importorskip("safetensors.torch")
    site = make_site(bytes_per_second=8 * MIB)
    made = {f"layer.{n}": torch.randn(512, 1024).bfloat16() for n in range(8)}
    made.update(flag=torch.tensor([True, False]), scalar=torch.tensor(3.5), empty=torch.zeros(0, 2))
    path = site.root / "model.safetensors"
    safetensors_torch.save_file(made, str(path))
    fs = make_agent({}).fs()
    for _ in range(2):
        got = dict(emberline.load_file(f"ember://{site.path}/model.safetensors", framework="pt", fs=fs))
        expected = safetensors_torch.load_file(str(path))
        assert set(got) == set(expected)
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name
    with pytest.raises(ValueError, match="framework"):
        list(emberline.load_file(f"ember://{site.path}/model.safetensors", fs=make_agent({}).fs(local=False)))


@pytest.mark.client("torch", "a DataLoader of four workers, two epochs from a slow origin")
def test_a_data_loader_reads_a_slow_origin_once_and_then_from_the_disk(tmp_path):
    import data_loader_bench

    told = data_loader_bench.measure(pathlib.Path(tmp_path), shards=8, shard_mib=8, rate_mib=12, nodes=1, workers=4)
    assert told["origin_ratio"] < 1.05, told
    assert told["first_epoch_ratio"] > 0.9, f"the origin was not slow: {told}"
    assert told["first_epoch_ratio"] < 2, told
    assert told["second_epoch_seconds"] < 0.5 * told["first_epoch_seconds"], told
