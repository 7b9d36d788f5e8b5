"""Train growing networks and their controls side by side, over many seeds, from one command."""

import os
import sys

from command_line import parse

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking


def main() -> int:
    """Parse, run, print the table; the exit code says what went wrong.

    2: a bad value. 4: every run diverged. 65: data that cannot be learnt from. 73: cannot write.
    """
    experiment, arguments = parse(__doc__)
    import n3

    try:
        if arguments.dry_run:
            print(n3.describe(experiment))
            return 0
        record = n3.run(experiment, quiet=arguments.quiet)
    except (ValueError, ModuleNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 65 if isinstance(error, n3.data.DataError) else 2
    except OSError as error:
        print(f"error: cannot write the run directory: {error}", file=sys.stderr)
        return 73
    summary = n3.summarise(record)
    print(f"\n{n3.table(summary)}\n\ndevice: {summary['device']}\nresults: {record.directory}")
    has_survivors = any(len(arm["diverged_seeds"]) < len(summary["seeds"]) for arm in summary["arms"].values())
    return 0 if has_survivors else 4


if __name__ == "__main__":
    sys.exit(main())
