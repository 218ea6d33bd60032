"""Seconds per iteration and GPU memory beside stock nnU-Net's own loop; one fold and two at once.

Both sides train the same trainer on the same preprocessed data by the same plans, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ca_hpc.nnunet.folders import PLANNER_PLANS
from tests.gpu import ours, stock
from tests.gpu.figures import PackRow, Report, StockRow, together
from tests.gpu.setting import Setting
from tests.gpu.timed_training import TimedTraining, train_at_once

MakeTraining = Callable[..., TimedTraining]

# Tensors and network are the same, so is the allocator; what is more than this would be ours.
MOST_MEMORY = 1.05


@pytest.fixture(scope="module")
def make_training(
    tmp_path_factory: pytest.TempPathFactory, run: Path, setting: Setting
) -> MakeTraining:
    """``make_training("name", cpus=8)``: by the patched plans, ``times`` as long as usual."""
    folder = tmp_path_factory.mktemp("speed")
    (plans,) = run.glob(f"nnunet/preprocessed/*/{PLANNER_PLANS}_*.json")

    def make(name: str, *, cpus: int, fold: int = 0, times: int = 1) -> TimedTraining:
        return TimedTraining(
            preprocessed=str(plans.parents[1]),
            dataset=plans.parent.name,
            plans=plans.stem,
            fold=fold,
            device=setting.device,
            cpus=cpus,
            measured=times * max(setting.measured, 2 * cpus),
            folder=str(folder / name),
            caches=str(folder / "caches"),
        )

    return make


@pytest.fixture(scope="module")
def beside_stock(
    make_training: MakeTraining, setting: Setting, cpus: int, report: Report
) -> list[StockRow]:
    """A row for each number of CPUs that this machine has; who begins changes from row to row."""
    sides = {"ours": ours.command, "stock": stock.command}
    for place, count in enumerate(sorted({min(n, cpus) for n in setting.cpus}, reverse=True)):
        records = {}
        for side in list(sides) if place % 2 == 0 else reversed(sides):
            training = make_training(f"{side}-{count}", cpus=count)
            (records[side],) = train_at_once([training], by=sides[side])
        report.beside_stock.append(StockRow(count, training.workers, **records))
    return report.beside_stock


def test_our_loop_is_measured_beside_stock_and_takes_no_more_memory(
    beside_stock: list[StockRow], setting: Setting
) -> None:
    assert all(row.ratio > 0 for row in beside_stock)
    memory = [row.memory_ratio for row in beside_stock]
    if setting.device == "cpu":
        assert set(memory) == {None}
    else:
        assert all(ratio is not None and ratio <= MOST_MEMORY for ratio in memory)


def test_two_folds_share_the_gpu(
    beside_stock: list[StockRow],
    make_training: MakeTraining,
    setting: Setting,
    cpus: int,
    report: Report,
) -> None:
    """With half of the CPUs each, as ``pack: 2`` deals them."""
    share = max(1, cpus // 2)
    # twice as long, for they do not begin at the same moment
    trainings = [make_training(f"packed-{fold}", cpus=share, fold=fold, times=2) for fold in (0, 1)]
    records = train_at_once(trainings, by=ours.command)
    alone = next(row.ours for row in beside_stock if row.cpus == cpus)
    reserved = tuple(record.reserved_mib for record in records)
    report.packed.append(
        PackRow(
            cpus=cpus,
            folds=len(records),
            one=1 / alone.seconds_per_iteration,
            all=together(records),
            reserved_mib=reserved,
        )
    )
    if setting.device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory >> 20
        assert sum(one or 0 for one in reserved) < whole
