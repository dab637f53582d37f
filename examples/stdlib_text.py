"""Text that every machine with Python has: the source of the standard library, as characters."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


def read_stdlib(max_chars: int) -> str:
    """The first ``max_chars`` ASCII characters of the standard library's modules, in name order."""
    folder = Path(sysconfig.get_path("stdlib"))
    chunks: list[str] = []
    total = 0
    for path in sorted(folder.glob("*.py")):
        if total >= max_chars:
            break
        # A handful of names and symbols are not ASCII; dropping them keeps the vocabulary small.
        chunk = path.read_bytes().decode("ascii", "ignore")
        chunks.append(chunk)
        total += len(chunk)
    if not total:
        raise FileNotFoundError(
            f"no .py files in {folder}: this Python ships without the source of its library"
        )
    return "".join(chunks)[:max_chars]


@dataclass(frozen=True)
class CharDataset:
    vocab: str
    train: Tensor
    val: Tensor

    @classmethod
    def from_text(cls, text: str, val_fraction: float = 0.1) -> CharDataset:
        vocab = "".join(sorted(set(text)))
        index = {char: i for i, char in enumerate(vocab)}
        data = torch.tensor([index[char] for char in text])
        split = int(len(data) * (1 - val_fraction))
        return cls(vocab, data[:split], data[split:])

    def batch(
        self, split: str, seed: int, batch_size: int, block_size: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets ``[batch_size, block_size]``, a pure function of the arguments.

        With one seed per step no random state runs along: both trainings see the same batches, and
        one that resumes at a step sees the batch that it would have seen without the interruption.
        """
        data = self.train if split == "train" else self.val
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(data) - block_size, (batch_size, 1), generator=generator)
        positions = starts + torch.arange(block_size)
        return data[positions], data[positions + 1]
