"""Sweep: `n3 sweep`, a grid of settings in few programs, on this machine or as jobs of a cluster."""

import hashlib
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from n3.cli.arguments import Arguments, parse_experiment, show_seeds
from n3.cli.endings import DIVERGED, IN_FOLDER, OK, ended, show
from n3.config import Study, install_advice, parse_axis, product


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Launch: where the groups of a sweep are trained."""

    launcher: Literal["here", "local", "slurm"] = "here"
    """`here`: one after the other; `slurm`: a job array, a job a group (extra slurm); `local`: the same jobs as
    processes of this machine, all at once."""
    partition: str | None = None
    """Partition of the jobs; None: the cluster's usual one."""
    minutes: int = 240
    """Time limit of a job."""
    cpus: int = 4
    """Cores of a job."""
    gpus: int = 0
    """GPUs of a job."""
    most_jobs: int = 64
    """Jobs of the array that run at once, at most."""
    distributed: bool = False
    """Share the groups among all processes that run this command, as `srun` or `mpirun` starts them; the first
    joins the results."""
    coordinator: str | None = None
    """Address HOST:PORT of the first of these processes; None: as Slurm or Open MPI says."""
    processes: int | None = None
    """Their number; None: as Slurm or Open MPI says."""
    process: int | None = None
    """The number of this one, from 0; None: as Slurm or Open MPI says."""


@dataclass(frozen=True, kw_only=True)
class SweepArguments(Arguments):
    """All flags of `n3 sweep`."""

    launch: tyro.conf.OmitArgPrefixes[Launch] = field(default_factory=Launch)
    grid: tuple[str, ...] = ()
    """Settings and values of which all combinations are trained: `learning_rate=1e-4,3e-4,1e-3
    capacity=4:1024:x2`. Ranges: LOW:HIGH:xFACTOR, LOW:HIGH:+STEP, LOW:HIGH:COUNT (geometric); layers `16x8`."""
    parts: int = 1
    """Groups to make of the runs, at least, where several jobs or processes train them."""

    def study(self) -> Study:
        """The study of these flags; a bad value raises ValueError."""
        if self.run.log_dir is not None:
            raise ValueError("`log_dir` takes the events of one experiment, not of a sweep: leave it out.")
        study = replace(product(self.experiment(), map(parse_axis, self.grid)), parts=self.parts)
        if not self.grid:
            rest = "`--grid learning_rate=1e-4,1e-3`; `n3 train` trains a single setting"
            raise ValueError(f"`grid` must name one setting or more with its values, such as {rest}.")
        check_launch(self.launch)
        if not self.dry_run:
            require_launcher(self.launch.launcher)
        return study


def check_launch(launch: Launch) -> None:
    """Refuse settings of where groups are trained that do not go together, with a ValueError."""
    own = launch.coordinator, launch.processes, launch.process
    if not launch.distributed:
        if own != (None, None, None):
            raise ValueError("`coordinator`, `processes` and `process` go with `distributed`: set it too.")
        return
    if launch.launcher != "here":
        raise ValueError(f"`distributed` does not go with `launcher` {launch.launcher}: leave one of them out.")
    if own == (None, None, None):
        return
    if launch.coordinator is None or launch.processes is None or launch.process is None:
        raise ValueError("`coordinator`, `processes` and `process` are set together, or none of them.")
    host, _, port = launch.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"`coordinator` must be HOST:PORT, such as node1:7777; got {launch.coordinator!r}.")
    if not 0 <= launch.process < launch.processes:
        got = f"{launch.process} of {launch.processes} `processes`"
        raise ValueError(f"`process` must lie from 0 to below the number of processes; got {got}.")


LOST_AFTER = 20
"""Seconds without a sign of life after which a process is lost, and the others end."""
FOUND_WITHIN = 120
"""Seconds in which all processes must have found each other."""
LONGEST_WAIT = 30 * 24 * 3600
"""Seconds that a process whose groups are trained waits for the others, at most."""


def join_processes(launch: Launch) -> int:
    """Find the other processes of a command; the number of this one. ValueError where nothing tells of them."""
    import jax

    if launch.process == 0 and launch.coordinator:
        with socket.socket() as own:
            port = int(launch.coordinator.rpartition(":")[2])
            try:
                own.bind(("", port))
            except OSError as error:
                raise ValueError(
                    f"`coordinator`: port {port} cannot be opened here: {error.strerror}."
                ) from error
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from this command
    try:
        jax.distributed.initialize(
            coordinator_address=launch.coordinator,
            num_processes=launch.processes,
            process_id=launch.process,
            initialization_timeout=FOUND_WITHIN,
            heartbeat_timeout_seconds=LOST_AFTER,
            shutdown_timeout_seconds=LONGEST_WAIT,
        )
    except ValueError as error:
        rest = "start the command by `srun` or `mpirun`, or set `coordinator`, `processes` and `process`"
        raise ValueError(f"`distributed` finds no other processes ({error}): {rest}.") from error
    return jax.process_index()


def require_launcher(launcher: str) -> None:
    """See that the jobs of a launcher can be started here; a ValueError that says what is missing."""
    if launcher != "here" and importlib.util.find_spec("submitit") is None:
        advice = f"install it with {install_advice('slurm', 'submitit')}"
        raise ValueError(f"`launcher` {launcher} needs submitit: {advice}.")
    if launcher == "slurm" and shutil.which("srun") is None:
        rest = "call the command on a machine of the cluster, or choose `local` or `here`"
        raise ValueError(f"`launcher` slurm needs Slurm, and there is no `srun` here: {rest}.")


def describe_launch(launch: Launch, groups: int) -> str:
    """What Slurm would be asked for, in a line."""
    where = f"partition {launch.partition}" if launch.partition else "the usual partition"
    each = f"{launch.minutes} minutes, {launch.cpus} cores and {launch.gpus} GPUs each"
    return f"slurm: an array of {groups} jobs, at most {launch.most_jobs} at once, in {where}; {each}"


def folder_of(study: Study) -> Path:
    """The sweep's folder: by its name, else by its settings, so that the same command finds it again."""
    run, digest = study.base.run, hashlib.sha256(study.to_json().encode()).hexdigest()[:10]
    return Path(run.out) / (run.name or f"sweep-{study.base.task.task}-{digest}")


def submit(study: Study, folder: Path, arguments: SweepArguments) -> bool:
    """Hand the unfinished groups to submitit; whether they are finished on return."""
    launch = arguments.launch
    import submitit

    from n3.experiments import prepare_study, train_group

    left = prepare_study(study, folder, resume=arguments.resume)
    executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=launch.launcher)
    settings = {"timeout_min": launch.minutes, "cpus_per_task": launch.cpus, "gpus_per_node": launch.gpus}
    if launch.launcher == "slurm":
        settings |= {"slurm_array_parallelism": launch.most_jobs, "slurm_partition": launch.partition}
    executor.update_parameters(
        name="n3-sweep", **{n: value for n, value in settings.items() if value is not None}
    )
    how = {"device": study.base.run.device, "quiet": True, "checkpoint_every": arguments.checkpoint_every}
    train = partial(train_group, str(folder.resolve()), **how)
    jobs = executor.map_array(train, left) if left else []
    if launch.launcher == "local":
        for job in jobs:
            job.wait()  # what failed is told where it is trained here
        return True
    show(f"{len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}")
    show("When they are done, the same command with `--launcher here` joins their results.")
    return not jobs


def _sweep(study: Study, arguments: SweepArguments) -> int:
    """Describe, submit or train the sweep, then print its table."""
    from n3.experiments import (
        check_memory,
        describe_medians,
        describe_study,
        plan_groups,
        run_share,
        run_study,
        study_table,
    )

    if arguments.dry_run:
        lines = [describe_study(study), f"folder {folder_of(study)}"]
        if arguments.launch.launcher == "slurm":
            lines.append(describe_launch(arguments.launch, len(plan_groups(study))))
        show("\n".join(lines))
        check_memory(study)
        return OK
    shared = arguments.launch.distributed
    is_first = join_processes(arguments.launch) == 0 if shared else True
    if is_first and not arguments.quiet:
        show_seeds(study.base.run.seeds)
    folder, resume = folder_of(study), arguments.resume
    if arguments.launch.launcher != "here":
        if not submit(study, folder, arguments):
            return OK
        resume = "auto"
    how = {"quiet": arguments.quiet, "resume": resume, "checkpoint_every": arguments.checkpoint_every}
    results = run_share(study, folder, **how) if shared else run_study(study, folder, **how)
    if results is None:  # another process has them
        return OK
    table = study_table(results, study)
    show(f"\n{describe_medians(results, study)}\n\n{table}\n\nresults: {folder}", kept=IN_FOLDER)
    has_diverged = results["diverged_at"] >= 0
    return DIVERGED if bool(has_diverged.any() if arguments.strict else has_diverged.all()) else OK


def sweep_command(words: Sequence[str], *, program: str) -> int:
    """Train a grid of settings and print its table; the exit code."""
    study, arguments = parse_experiment(
        SweepArguments,
        words,
        program=program,
        description="Sweep a grid of settings: few compilations, finished groups are kept, one results.nc.",
        made=lambda parsed: (parsed.study(), parsed),
    )
    code = ended(lambda: _sweep(study, arguments))
    if arguments.launch.distributed and code not in (OK, DIVERGED):
        sys.stdout.flush()
        os._exit(code)  # what ends early does not wait for the others: they end too
    return code
