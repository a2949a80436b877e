"""Running a function in several processes that talk over gloo on loopback, as a launcher would start them.

Workers are forked from a server that has imported the package, so that starting four of them does not import it four
times. A worker writes what it raised to `<folder>/worker-<rank>.txt` and exits with 1, or as SystemExit says.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

from omnimouse.training.pretraining import step as pretraining_step
from omnimouse.training.pretraining import train as pretraining
from omnimouse.training.runs import distributed, run_folder

TIMEOUT = 300
"""Seconds after which a worker is taken to hang; far more than any needs."""


def launch(function, n_processes, folder, **arguments):
    """Runs `function(rank, **arguments)` in `n_processes` processes and returns their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omnimouse.training"])  # this module is not on the server's path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    workers = [
        context.Process(target=_work, args=(function, rank, n_processes, port, folder, arguments))
        for rank in range(n_processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIMEOUT)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    return codes


def messages(folder):
    """What workers wrote: rank -> traceback."""
    return {int(path.stem.rpartition("-")[2]): path.read_text() for path in Path(folder).glob("worker-*.txt")}


def _work(function, rank, n_processes, port, folder, arguments):
    # Both as a launcher sets them; a single process is started without.
    if n_processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes), "LOCAL_WORLD_SIZE":
            str(n_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
    torch.set_num_threads(1)
    message = folder / f"worker-{rank}.txt"
    message.unlink(missing_ok=True)
    try:
        function(rank, **arguments)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        message.write_text(traceback.format_exc())
        code = 1
    # Without the interpreter's farewell, which waits for peers that may be gone.
    sys.stdout.flush()
    os._exit(code)


def train(rank, *, recipe, kill_at=None, kill_saving=None, poison=None, terminate=None, **options):
    """Trains, and meets with an accident if one is asked for.

    Args:
        kill_at: step in which every process is killed.
        kill_saving: step whose checkpoint the main process is killed in the middle of writing.
        poison: (rank, step) that gets a NaN loss.
        terminate: (rank, step) that is sent SIGTERM.
    """
    if kill_at is not None:
        _before_step(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if terminate is not None and terminate[0] == rank:
        _before_step(terminate[1], lambda: signal.raise_signal(signal.SIGTERM))
    if kill_saving is not None and rank == 0:
        replace = os.replace

        def replace_or_die(source, target):
            if str(target).endswith(f"checkpoint-{kill_saving:08d}"):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        run_folder.os.replace = replace_or_die
    if poison is not None and poison[0] == rank:
        _poison(poison[1])
    return pretraining.train(recipe, progress=False, **options)


def _before_step(step, act):
    original = pretraining_step.pretraining_step

    def acting(run, number, *args, **kwargs):
        if number == step:
            act()
            kwargs["wants_to_stop"] = False  # read before the signal came
        return original(run, number, *args, **kwargs)

    pretraining.pretraining_step = acting


def _poison(step):
    forward = pretraining_step.forward_batch
    count = iter(range(10**6))

    def poisoned(*args):
        output, loss = forward(*args)
        return output, loss * float("nan") if next(count) == step else loss

    pretraining_step.forward_batch = poisoned


def together(rank, *, out):
    """Exercises `Processes` and writes what each process saw."""
    from accelerate import Accelerator

    processes = distributed.Processes(Accelerator(cpu=True))
    seen = [
        processes.add_numbers([1.0, rank]),
        processes.from_main(41 + rank),
        processes.agree([7, 8]),
        processes.agree([7, rank]),
    ]
    try:
        with processes.together("try"):
            if rank == 1:
                raise OSError("disk full")
    except (ValueError, OSError) as error:
        seen.append(f"{type(error).__name__}: {error}")
    Path(out, f"seen-{rank}").write_text(repr(seen))
