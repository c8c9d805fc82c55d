"""Everything about the GPU that needs one: checks the kernels, then measures them beside the machine's limits.

    python -m bench.gpu [--interpret]

`--interpret` tries the checks on small shapes under Triton's interpreter, without a GPU. Exits with 1 where a check
fails. `reached` is the measured speed over the bound's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.gpu_model import Row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true")
    interpret = parser.parse_args().interpret
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if interpret:
        from tests.runtime.cuda.interpreter import repair

        repair()
    elif not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs an NVIDIA GPU that PyTorch sees; without one, --interpret tries its checks")
    from bench import gpu_kernels
    from bench.gpu_model import Limits

    failed = table(gpu_kernels.checks("cpu" if interpret else "cuda", interpret))
    if not interpret:
        limits = Limits.measure("cuda")
        print(
            f"\n{torch.cuda.get_device_name()}: {limits.bandwidth / 1e12:.2f} TB/s, {limits.flops / 1e12:.0f} TFLOP/s"
        )
        table(gpu_kernels.timings(limits))
    sys.exit(1 if failed else 0)


def table(rows: Iterable[Row]) -> bool:
    """Prints rows as they come. Whether one did not reach what it has to."""
    missed = False
    print(f"{'':48} {'measured':32} {'bound':40} reached  wanted")
    for row in rows:
        shares = "" if row.reached is None else f"{row.reached:7.2f}"
        wanted = "" if row.target is None else f"{row.target:7.2f}"
        print(f"{row.name:48} {row.measured:32} {row.bound:40} {shares} {wanted}", flush=True)
        missed |= row.reached is not None and row.target is not None and not row.reached >= row.target
    return missed


if __name__ == "__main__":
    main()
