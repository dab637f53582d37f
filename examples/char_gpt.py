"""A small GPT over characters, and the four parameter groups that such a model is trained with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    block_size: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 144


class SelfAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd),
            nn.GELU(),
            nn.Linear(4 * config.n_embd, config.n_embd),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class CharGPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, idx: Tensor) -> Tensor:
        """Logits ``[B, T, vocab_size]`` of the character that follows each of ``idx [B, T]``."""
        positions = torch.arange(idx.shape[1], device=idx.device)
        x = self.blocks(self.wte(idx) + self.wpe(positions))
        return self.head(self.ln_f(x))

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(idx).flatten(0, 1), targets.flatten())


def param_groups(model: CharGPT) -> list[dict[str, Any]]:
    """Four groups with their own rate and decay: what is looked up, multiplied, added, read out.

    Decay shrinks the matrices that mix features. It is kept away from biases and norms, whose size
    is no measure of complexity, and from embeddings, whose rows are mostly absent from a batch and
    would decay without being trained.
    """

    def select(belongs: Callable[[str, Tensor], bool]) -> list[Tensor]:
        return [p for name, p in model.named_parameters() if belongs(name, p)]

    embeddings = select(lambda name, p: name.startswith(("wte", "wpe")))
    matrices = select(lambda name, p: name.startswith("blocks") and p.ndim >= 2)
    vectors = select(lambda name, p: p.ndim < 2)
    head = select(lambda name, p: name.startswith("head"))
    return [
        {"name": "embeddings", "params": embeddings, "lr": 3e-3, "weight_decay": 0.0},
        {"name": "matrices", "params": matrices, "lr": 1e-3, "weight_decay": 0.1},
        {"name": "vectors", "params": vectors, "lr": 2e-3, "weight_decay": 0.0},
        {"name": "head", "params": head, "lr": 5e-4, "weight_decay": 0.01},
    ]
