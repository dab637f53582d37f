"""Handwritten digits, 8 x 8 pixels; where they come from is told in ``data/README.md``."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

FILE = Path(__file__).parent / "data" / "digits.csv.gz"


class Digits(NamedTuple):
    """Images float32 [N, 1, 8, 8] from 0 to 1, and digits int64 [N]."""

    images: Tensor
    digits: Tensor

    def batches(self, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
        """Batches in a random order, each indexed as a whole: faster than image by image."""
        dataset = TensorDataset(*self)
        sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=True)
        return DataLoader(dataset, batch_size=None, sampler=sampler)


def load_digits(held_out: int = 400) -> tuple[Digits, Digits]:
    """The digits to train with, and as many as were asked for that are held out."""
    with gzip.open(FILE, "rt", newline="") as file:
        rows = torch.tensor([[int(value) for value in row] for row in csv.reader(file)])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    digits = Digits(rows[:, :-1].reshape(-1, 1, 8, 8) / 16, rows[:, -1])
    split = len(rows) - held_out
    return Digits(*(one[:split] for one in digits)), Digits(*(one[split:] for one in digits))
