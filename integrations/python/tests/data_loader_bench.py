"""A PyTorch DataLoader over a sharded dataset on a slow origin, read through Emberline by several nodes at once.

    python tests/data_loader_bench.py [--shards 16] [--shard-mib 8] [--rate-mib 24] [--nodes 2] [--workers 2] [--json]

Every node is an agent of its own, with a DataLoader of several worker processes that reads every shard in each
epoch, all nodes at once. Prints how long the first epoch took beside what the origin needs to send the dataset once,
how many bytes the origin sent (counted between it and the agents) beside the dataset's, and how long the second epoch
took beside the same DataLoader on the origin's own files. Every sample of every epoch is checked.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import secrets
import shutil
import tempfile
import time

import fsspec
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from origin import Site
from running_agent import RunningAgent

MIB = 1 << 20
#: Bytes of one sample.
SAMPLE_BYTES = 1 * MIB


class Shards(IterableDataset):
    """Samples of shards that ``torch.save`` wrote; each worker reads its part of the shards."""

    def __init__(self, fs, paths):
        self.fs, self.paths, self.epoch = fs, paths, 0

    def __iter__(self):
        worker = get_worker_info()
        # Another part in each epoch, so that no worker reads what itself has read before.
        for path in self.paths[(worker.id + self.epoch) % worker.num_workers :: worker.num_workers]:
            with self.fs.open(path) as file:
                yield from torch.load(file)["samples"]


def write_shards(root, shards, samples):
    """The sum of each sample says what it is."""
    torch.manual_seed(7)
    sums = []
    for shard in range(shards):
        values = torch.randint(0, 1 << 30, (samples, SAMPLE_BYTES // 8), dtype=torch.int64)
        sums += [int(value.sum()) for value in values]
        torch.save({"samples": values}, str(root / f"shard-{shard:04}.pt"))
    return sorted(sums)


def read_epochs(fs, paths, workers, epochs, expected, barrier, answers, settle):
    dataset = Shards(fs, paths)
    for epoch in range(epochs):
        dataset.epoch = epoch
        barrier.wait(300)
        began = time.monotonic()
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        got = sorted(int(sample.sum()) for sample in loader)
        answers.put((epoch, time.monotonic() - began, got == expected))
        settle(fs, paths)


def until_sealed(fs, paths):
    """Between epochs, as a training step would: what was read gets its path."""
    for path in paths:
        deadline = time.monotonic() + 60
        while fsspec.asyn.sync(fs.loop, fs.presence, path, sealed=True)["state"] != "sealed":
            assert time.monotonic() < deadline, path


def nothing(fs, paths):
    """There is nothing to settle on a disk."""


def run_epochs(readers, workers, epochs, expected):
    """Each ``(fs, paths, settle)`` in a process of its own; the slowest one's seconds of each epoch."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(len(readers)), context.Queue()
    processes = [
        context.Process(
            target=read_epochs, args=(fs, paths, workers, epochs, expected, barrier, answers, settle)
        )
        for fs, paths, settle in readers
    ]
    [process.start() for process in processes]
    seconds = [0.0] * epochs
    for _ in range(epochs * len(readers)):
        epoch, took, right = answers.get(timeout=600)
        assert right, f"epoch {epoch} gave other samples than were written"
        seconds[epoch] = max(seconds[epoch], took)
    [process.join() for process in processes]
    return seconds


def measure(home, shards, shard_mib, rate_mib, nodes, workers):
    site = Site(home, rate_mib * MIB)
    agents = []
    try:
        expected = write_shards(site.root, shards, shard_mib * MIB // SAMPLE_BYTES)
        site.list()
        names = [f"shard-{shard:04}.pt" for shard in range(shards)]
        dataset_bytes = sum((site.root / name).stat().st_size for name in names)
        secret = home / "secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        for node in range(nodes):
            place = home / f"node-{node}"
            place.mkdir()
            members = [agent.member for agent in agents]
            agents.append(RunningAgent(place, {}, cluster=(secret, members)))
        readers = [(agent.fs(), [f"{site.path}/{name}" for name in names], until_sealed) for agent in agents]
        first, second = run_epochs(readers, workers, 2, expected)
        disk = fsspec.filesystem("file")
        direct = [(disk, [str(site.root / name) for name in names], nothing)] * nodes
        # The second time, as Emberline's: all of it was read a moment ago.
        _, from_disk = run_epochs(direct, workers, 2, expected)
    finally:
        for agent in agents:
            agent.stop()
        site.stop()
    return {
        "dataset_bytes": dataset_bytes,
        "nodes": nodes,
        "workers_each": workers,
        "origin_bytes": site.relay.delivered,
        "origin_ratio": site.relay.delivered / dataset_bytes,
        "origin_seconds": dataset_bytes / (rate_mib * MIB),
        "first_epoch_seconds": first,
        "first_epoch_ratio": first / (dataset_bytes / (rate_mib * MIB)),
        "second_epoch_seconds": second,
        "from_disk_seconds": from_disk,
        "second_epoch_ratio": second / from_disk,
        "torch": torch.__version__,
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in [("shards", 16), ("shard-mib", 8), ("rate-mib", 24), ("nodes", 2), ("workers", 2)]:
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--json", action="store_true", help="one JSON object instead of sentences")
    asked = options.parse_args()
    home = pathlib.Path(tempfile.mkdtemp(prefix="emberline-data-loader-"))
    try:
        told = measure(home, asked.shards, asked.shard_mib, asked.rate_mib, asked.nodes, asked.workers)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if asked.json:
        print(json.dumps(told))
        return
    size = told["dataset_bytes"] / MIB
    print(f"{size:.0f} MiB in {asked.shards} shards, {asked.nodes} nodes with {asked.workers} workers each,")
    print(f"an origin of {asked.rate_mib} MiB/s, PyTorch {told['torch']}, {os.cpu_count()} cores")
    print(f"origin bytes ÷ dataset          {told['origin_ratio']:.3f}")
    first, once = told["first_epoch_seconds"], told["origin_seconds"]
    print(f"first epoch ÷ sending it once   {told['first_epoch_ratio']:.2f}   ({first:.2f} s, {once:.2f} s)")
    second, disk = told["second_epoch_seconds"], told["from_disk_seconds"]
    print(f"second epoch ÷ reading the disk {told['second_epoch_ratio']:.2f}   ({second:.2f} s, {disk:.2f} s)")


if __name__ == "__main__":
    main()
