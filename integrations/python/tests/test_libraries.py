"""Libraries that nobody here wrote read through the file system, while files come and after."""

import io
import random

import pytest

MIB = 1 << 20


def slow(make_agent, make_site, write, name, rate=8 * MIB):
    """The name of what ``write`` wrote on a slow origin, and an agent that has nothing of it."""
    site = make_site(bytes_per_second=rate)
    write(site.root / name)
    agent = make_agent({})
    return agent, f"ember://{site.path}/{name}", site.root / name


@pytest.fixture
def table():
    pandas = pytest.importorskip("pandas")
    random.seed(5)
    rows = range(200_000)
    return pandas.DataFrame(
        {"id": list(rows), "value": [random.random() for _ in rows], "name": [f"row {n % 997}" for n in rows]}
    )


@pytest.mark.client("pandas", "read_parquet and read_csv, while it comes and after")
def test_pandas_reads_parquet_and_csv(make_agent, make_site, table):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for kind in ("parquet", "csv"):
        write = getattr(table, f"to_{kind}")
        agent, url, path = slow(make_agent, make_site, lambda at: write(at, index=False), f"table.{kind}")
        read = getattr(pandas, f"read_{kind}")
        for _ in range(2):
            got = read(url, storage_options={"agent": agent.url})
            pandas.testing.assert_frame_equal(got, table)
            # Whole by the second time.
            agent.fs().get(url, str(path) + ".copy")


@pytest.mark.client("pyarrow", "one column of Parquet, a partitioned dataset, while it comes and after")
def test_pyarrow_reads_columns_and_datasets_of_parquet(make_agent, make_site, table, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    dataset = pytest.importorskip("pyarrow.dataset")
    parquet = pytest.importorskip("pyarrow.parquet")
    site = make_site(bytes_per_second=8 * MIB)
    for part in range(4):
        folder = site.root / f"part={part}"
        folder.mkdir()
        parquet.write_table(
            pyarrow.Table.from_pandas(table[table.id % 4 == part]), folder / "rows.parquet", row_group_size=10_000
        )
    site.list()
    fs = make_agent({}).fs()
    column = parquet.read_table(f"{site.path}/part=1/rows.parquet", columns=["value"], filesystem=fs)
    assert column.column_names == ["value"] and column.num_rows == 50_000
    # Two times: while it comes, and when it is here.
    for _ in range(2):
        rows = dataset.dataset(site.path, filesystem=fs, partitioning="hive", format="parquet").to_table()
        assert rows.num_rows == len(table)
        got = sorted(rows.column("id").to_pylist())
        assert got == list(range(len(table)))


@pytest.mark.client("safetensors", "safe_open by path, load of bytes")
def test_safetensors_reads_the_path_of_a_whole_file(make_agent, make_site):
    numpy = pytest.importorskip("numpy")
    safetensors = pytest.importorskip("safetensors")
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    import emberline

    made = {"a": numpy.arange(MIB, dtype=numpy.float32).reshape(1024, 1024)}
    agent, url, _ = slow(
        make_agent, make_site, lambda at: safetensors_numpy.save_file(made, str(at)), "model.safetensors"
    )
    with safetensors.safe_open(emberline.local_path(url, fs=agent.fs()), framework="np") as tensors:
        assert numpy.array_equal(tensors.get_tensor("a"), made["a"])
    with agent.fs().open(url) as file:
        assert numpy.array_equal(safetensors_numpy.load(file.read())["a"], made["a"])


@pytest.mark.client("numpy", "npz by seeking, while it comes and after")
def test_numpy_and_zipfile_seek_in_it(make_agent, make_site):
    numpy = pytest.importorskip("numpy")
    made = {"a": numpy.arange(MIB), "b": numpy.eye(64)}
    agent, url, _ = slow(make_agent, make_site, lambda at: numpy.savez(at, **made), "arrays.npz")
    for _ in range(2):
        with agent.fs().open(url) as file, numpy.load(file) as arrays:
            assert numpy.array_equal(arrays["b"], made["b"]) and numpy.array_equal(arrays["a"], made["a"])
    with agent.fs().open(url) as file:
        whole = io.BytesIO(file.read())
    assert numpy.array_equal(numpy.load(whole)["a"], made["a"])
