"""The floor of the machine: how fast it multiplies matrices and copies memory, whatever the program.

    python benchmarks/floor.py --device cuda

Every benchmark measures it in the same run, and says which share of it the package reaches. A time means something on
one machine; a share means something on another one too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from meters import timed

from omnimouse import OmniMouseConfig
from omnimouse.model.attention import feed_forward_width

PRECISIONS = ("float32", "bfloat16")
PRESETS = ("tiny", "5m", "80m")
"""Cores whose widths are multiplied: `[rows, D] @ [D, feed-forward width]`, the largest product of a block."""


@dataclass(frozen=True)
class Floor:
    """What the machine can do at best.

    Args:
        device: where.
        threads: of the CPU.
        products: operations per second of a matrix product, by precision and `rows x inner x columns`.
        copied: bytes per second of a copy of large buffers, each byte counted once.
    """

    device: str
    threads: int
    products: dict[str, dict[str, float]]
    copied: float

    def matrix_rate(self, precision: str = "float32") -> float:
        """Operations per second of the best matrix product."""
        return max(self.products[precision].values())

    def share(
        self, *, operations: float = 0.0, n_bytes: float = 0.0, seconds: float = 1.0, precision: str = "float32"
    ) -> float:
        """Share of the floor: of the best matrix product for operations, of the copy for bytes.

        Args:
            operations: floating point operations, as `omnimouse.training.runs.flops` counts them; or
            n_bytes: bytes that were made or read.
            seconds: in which they were.
            precision: of the products.
        """
        if bool(operations) == bool(n_bytes):
            raise ValueError(f"Give operations or n_bytes, got {operations} and {n_bytes}.")
        rate = self.matrix_rate(precision) if operations else self.copied
        return (operations or n_bytes) / seconds / rate

    def sentence(self) -> str:
        """Its numbers in words."""
        products = "; ".join(
            f"{name} {self.matrix_rate(name) / 1e12:.3g} TFLOP/s ("
            + ", ".join(f"{size}: {rate / 1e12:.3g}" for size, rate in found.items()) + ")"
            for name, found in self.products.items()
        )  # fmt: skip
        place = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        return f"{place}: matrix product {products}; copy {self.copied / 1e9:.3g} GB/s"


def floor(device: str | torch.device = "cpu", *, quick: bool = False, repeats: int = 3) -> Floor:
    """Measures the floor in a second or two: best of several, at the widths of the model and at one large square.

    Args:
        device: where.
        quick: toy sizes.
        repeats: of each measurement, of which the best counts.
    """
    device = torch.device(device)
    large = device.type != "cpu"
    rows, square, buffer = (32768, 8192, 2**30) if large else (4096, 2048, 2**28)
    if quick:
        rows, square, buffer = 64, 64, 2**16
    sizes = [(square, square, square)]
    for preset in PRESETS:
        config = OmniMouseConfig.from_preset(preset)
        sizes.append((rows, config.hidden_size, feed_forward_width(config.hidden_size, config.ffn_multiplier)))
    products: dict[str, dict[str, float]] = {name: {} for name in PRECISIONS}
    for name, found in products.items():
        for n, inner, columns in sizes:
            a, b = (
                torch.randn(shape, device=device, dtype=getattr(torch, name))
                for shape in ((n, inner), (inner, columns))
            )
            seconds = _best(lambda a=a, b=b: a @ b, device, repeats, calls=10 if large else 1)
            found[f"{n}x{inner}x{columns}"] = 2 * n * inner * columns / seconds
    source = torch.ones(buffer, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)  # written once, so that its pages are there
    copied = buffer / _best(lambda: target.copy_(source), device, repeats, calls=1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Floor(name, torch.get_num_threads(), products, copied)


def _best(function: Callable[[], Any], device: torch.device, repeats: int, *, calls: int) -> float:
    """Least seconds of a call, after one that is not timed."""
    return min(timed(lambda: [function() for _ in range(calls)], repeats + 1, device)[1:]) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="as for finetune(device=...) (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    options = parser.parse_args()
    print(floor(options.device, quick=options.quick).sentence())


if __name__ == "__main__":
    main()
