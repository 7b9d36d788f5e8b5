"""Train growing networks and their controls side by side, over many seeds, from one command."""

import os

from command_line import DIVERGED, OK, ended, parse, run_process, show

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking


def main() -> int:
    """Parse, run, print the table; the exit code says what went wrong (`command_line`)."""
    experiment, arguments = parse(__doc__)

    def work() -> int:
        import n3

        if arguments.dry_run:
            show(n3.describe(experiment))
            return OK
        settings = {"resume": arguments.resume, "checkpoint_every": arguments.checkpoint_every}
        record = n3.run(experiment, quiet=arguments.quiet, **settings)
        summary = n3.summarise(record)
        show(f"\n{n3.table(summary)}\n\ndevice: {summary['device']}\nresults: {record.directory}")
        lost = [len(arm["diverged_seeds"]) for arm in summary["arms"].values()]
        has_failed = any(lost) if arguments.strict else sum(lost) == len(lost) * len(summary["seeds"])
        return DIVERGED if has_failed else OK

    return ended(work)


if __name__ == "__main__":
    run_process(main)
