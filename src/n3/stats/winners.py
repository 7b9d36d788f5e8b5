"""Winners: which activation each hidden layer chose in the end, counted over the seeds."""

from typing import Any

from n3.stats import columns


def summarise_choices(results: Any, lost: Any) -> dict[str, Any]:
    """The entry `choices` of `summary.json`, or nothing where no activation was chosen.

    Args:
        results: An xarray data set; `choice_share` at its last step decides.
        lost: Which runs (arm, seed) diverged; they do not count.

    Returns:
        For each arm and hidden layer, the number of runs that chose each activation.
    """
    if "choice_share" not in results:
        return {}
    shares = results["choice_share"].isel(step=-1)
    is_most = (shares == shares.max("choice")) & ~lost
    names, counted = results["choice"].values.tolist(), is_most.sum("seed").transpose("arm", "layer", "choice")
    arms = zip(results["arm"].values.tolist(), counted.values.tolist(), strict=True)
    return {
        "choices": {arm: [dict(zip(names, layer, strict=True)) for layer in layers] for arm, layers in arms}
    }


def told(summary: dict[str, Any]) -> list[str]:
    """How often each activation was chosen, a row for each layer of an arm; nothing where none was."""
    if "choices" not in summary:
        return []
    rows = [
        f"{arm}, layer {index}|{'|'.join(str(count) for count in layer.values())}"
        for arm, layers in summary["choices"].items()
        for index, layer in enumerate(layers, start=1)
    ]
    names = next(iter(summary["choices"].values()))[0]
    return [columns.aligned([f"runs that chose|{'|'.join(names)}", *rows])]
