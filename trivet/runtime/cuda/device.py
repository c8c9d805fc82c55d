"""What is CUDA's own in running steps (streams, events, pinned memory, graphs), and its stand-in on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError
from typing import Protocol

import torch
from triton.runtime import driver

from trivet.errors import DeviceLostError, EngineError


class Event(Protocol):
    """Ends of copies, or of steps."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Device(Protocol):
    place: torch.device
    name: str
    """For people."""
    capability: str
    """What fixes a kernel's bits: "sm_90"."""

    def pinned_bytes(self, count: int) -> torch.Tensor:
        """Host memory, uint8, that the device reads by itself."""
        ...

    def event(self) -> Event: ...

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and of all."""
        ...

    def peak_bytes(self, run: Callable[[], None]) -> int:
        """What `run` takes of the device beyond what is taken now, gaps between its tensors included."""
        ...

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Make `run`, whose tensors outside live on, a graph; returns what replays it. Raises errors of which some are
        `out_of_memory`."""
        ...

    def synchronize(self) -> None: ...

    def lost(self) -> bool:
        """Whether it answers no more, after an error: a kernel read memory that is not there, the hardware failed."""
        ...

    def release(self) -> None:
        """Give back the memory of what has been deleted."""
        ...


class CudaDevice:
    """The current CUDA device. All its graphs share one pool of memory, as they never run at the same time."""

    def __init__(self) -> None:
        """Raises EngineError where PyTorch or Triton does not run."""
        try:
            self.place = torch.device("cuda", torch.cuda.current_device())
            torch.cuda.mem_get_info(self.place)  # makes the context, the first that takes memory of the GPU
        except (RuntimeError, AssertionError) as error:
            raise EngineError(
                f"device cuda: PyTorch {torch.__version__} cannot use the GPU and says: {first_line(error)}; install a "
                "build of it for CUDA that the driver knows and free the GPU's memory, or use device cpu"
            ) from error
        check_compiler()
        properties = torch.cuda.get_device_properties(self.place)
        self.name = properties.name
        self.capability = f"sm_{properties.major}{properties.minor}"
        self._pool: tuple[int, int] | None = None

    def pinned_bytes(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def event(self) -> Event:
        return torch.cuda.Event()

    def memory(self) -> tuple[int, int]:
        return torch.cuda.mem_get_info(self.place)

    def peak_bytes(self, run: Callable[[], None]) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.place)
        before = torch.cuda.memory_reserved(self.place)
        run()
        torch.cuda.synchronize(self.place)
        peak = torch.cuda.max_memory_reserved(self.place) - before
        torch.cuda.empty_cache()
        return peak

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        # What is compiled or loaded at first use may not be so within a capture.
        run()
        torch.cuda.synchronize(self.place)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # A capture that fails at its end leaves its own stream as the current one, which the outer context undoes.
        # What other threads of the process do with CUDA meanwhile is no part of it, and no fault.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.place)),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            run()
        return graph.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.place)

    def lost(self) -> bool:
        try:
            torch.cuda.synchronize(self.place)
        except RuntimeError:
            return True
        return False

    def release(self) -> None:
        torch.cuda.empty_cache()


NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")
"""In the texts of errors: of CUDA and Triton, and of cuBLAS, whose handles take memory when they are made."""


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error means, or came of, memory that did not suffice: what CUDA takes itself, for graphs and kernels
    and pinned memory, is not of PyTorch's allocator, nor is the error.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
        ):
            return True
        error = error.__context__
    return False


@contextmanager
def or_device_lost(device: Device) -> Iterator[None]:
    """Raises DeviceLostError in place of an error that is not of this step alone."""
    try:
        yield
    except RuntimeError as error:
        if device.lost():
            raise DeviceLostError(f"{device.name} is lost: {first_line(error)}") from error
        raise


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_compiler() -> None:
    """Triton builds what launches kernels at its first use. Raises EngineError where it cannot."""
    try:
        driver.active.utils  # noqa: B018
    except (RuntimeError, OSError, AssertionError, CalledProcessError) as error:
        raise EngineError(
            "device cuda: Triton needs a C compiler and Python's headers (gcc, python3-dev on Debian and Ubuntu) and "
            f"says: {first_line(error)}; install them, or use device cpu"
        ) from error


class _Done:
    """An event of a device that does everything at once."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class HostDevice:
    """Torch's CPU in place of a GPU, for tests; kernels then run in Triton's interpreter."""

    place = torch.device("cpu")
    name = "torch's CPU"
    capability = "interpreter"

    def pinned_bytes(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def event(self) -> Event:
        return _Done()

    def memory(self) -> tuple[int, int]:
        return 1 << 30, 1 << 30

    def peak_bytes(self, run: Callable[[], None]) -> int:
        run()
        return 0

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        run()
        return run

    def synchronize(self) -> None:
        pass

    def lost(self) -> bool:
        return False

    def release(self) -> None:
        pass
