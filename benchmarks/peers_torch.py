"""Peers of PyTorch: what `peers.py` has trained in an environment of its own, which has no JAX and no n3.

    uv run --isolated --no-project --with torch --with numpy python benchmarks/peers_torch.py speed FILE
    uv run --isolated --no-project --with gromo python benchmarks/peers_torch.py gromo FILE
    uv run --isolated --no-project --with torch-pruning python benchmarks/peers_torch.py pruning FILE

The file is an .npz of samples, first weights and numbers, which `peers.py` writes. One thread trains; the last
line of the output is a JSON object, whose seconds are CPU time of the training alone.
"""

import argparse
import copy
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

WEIGHTS = "0.weight", "0.bias", "2.weight", "2.bias"
"""Names of the weights of a network, in the order in which the file has them."""
Batches = list[tuple[torch.Tensor, torch.Tensor]]
mean_square = torch.nn.functional.mse_loss


def network(inputs: int, units: int, outputs: int) -> torch.nn.Sequential:
    """One hidden layer of tanh units."""
    layers = torch.nn.Linear(inputs, units), torch.nn.Tanh(), torch.nn.Linear(units, outputs)
    return torch.nn.Sequential(*layers)


def parameters_of(model: torch.nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(own.numel() for own in model.parameters())


# Speed: the same steps as in `peers.py`


def given_networks(given: dict[str, torch.Tensor]) -> list[torch.nn.Sequential]:
    """The networks of all runs, with the weights of the file."""
    runs, units, inputs = given["weights_0"].shape
    models = [network(inputs, units, 1) for _ in range(runs)]
    for run, model in enumerate(models):
        model.load_state_dict({name: given[f"weights_{n}"][run] for n, name in enumerate(WEIGHTS)})
    return models


def by_loop(given: dict[str, torch.Tensor], rate: float, steps: int) -> list[float]:
    """The first runs one after the other, in a usual training loop; their losses."""
    x, y, losses = given["x"], given["y"], []
    for run, model in enumerate(given_networks(given)[: int(given["alone"])]):
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            mean_square(model(x[run]), y[run]).backward()
            optimiser.step()
        losses.append(mean_square(model(x[run]), y[run]).item())
    return losses


def by_ensemble(given: dict[str, torch.Tensor], rate: float, steps: int) -> list[float]:
    """All runs at once, by `torch.func`; their losses."""
    models = given_networks(given)
    params, _ = stack_module_state(models)
    bare = copy.deepcopy(models[0]).to("meta")

    def loss(own: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return mean_square(functional_call(bare, own, (x,)), y)

    optimiser, slopes = torch.optim.Adam(params.values(), lr=rate), vmap(grad(loss))
    for _ in range(steps):
        found = slopes({name: own.detach() for name, own in params.items()}, given["x"], given["y"])
        for name, own in params.items():
            own.grad = found[name]
        optimiser.step()
    return vmap(loss)(params, given["x"], given["y"]).tolist()


def speed(file: dict[str, np.ndarray]) -> dict[str, Any]:
    """Median CPU seconds of each way to train, in turn within each round, and the losses at the end."""
    given = {name: torch.from_numpy(own) for name, own in file.items()}
    rate, steps = float(given["rate"]), int(given["steps"])
    ways: dict[str, Callable] = {"PyTorch, loop": by_loop, "PyTorch, torch.func": by_ensemble}
    seconds, losses = {name: [] for name in ways}, {}
    for counted in range(int(given["rounds"]) + 1):
        for name, way in ways.items():
            start = time.process_time()
            losses[name] = way(given, rate, steps)
            if counted:
                seconds[name].append(time.process_time() - start)
    return {name: {"seconds": float(np.median(seconds[name])), "losses": losses[name]} for name in ways}


# Gromo: growth as in its tutorial of containers


def grown_once(model: torch.nn.Module, train: Batches, rate: float, layer: int) -> None:
    """Three epochs of gradient descent, then units where they lower the loss most, scaled by a line search."""
    from gromo.utils.training_utils import compute_statistics, evaluate_model, gradient_descent

    mean, optimiser = torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(3):
        gradient_descent(model, train, optimiser, scheduler=None, loss_function=mean)
    model.set_growing_layers(index=layer)
    compute_statistics(model, train, loss_function=torch.nn.MSELoss(reduction="sum"))
    model.compute_optimal_updates()
    model.reset_computation()
    model.dummy_select_update()
    tried = []
    for factor in (0.0, 0.1, 0.5, 1.0):
        model.set_scaling_factor(factor)
        tried.append((evaluate_model(model, train, mean, use_extended_model=True)[0], factor))
    model.set_scaling_factor(min(tried)[1])
    model.apply_change()


def grown(train: Batches, test: Batches, *, growths: int, seed: int) -> dict[str, Any]:
    """Two hidden layers of two units each, grown in turn; a loss of None says that Gromo met a NaN."""
    from gromo.containers.growing_mlp import GrowingMLP
    from gromo.utils.training_utils import evaluate_model

    torch.manual_seed(seed)
    start, loss = time.process_time(), None
    sizes = {"in_features": train[0][0].shape[1], "out_features": train[0][1].shape[1]}
    model = GrowingMLP(**sizes, hidden_size=2, number_hidden_layers=2)
    try:
        for growth in range(growths):
            grown_once(model, train, 0.01, growth % 2)
        loss = evaluate_model(model, test, torch.nn.MSELoss())[0]
    except AssertionError as stop:
        if "NaN" not in str(stop):
            raise
    return {
        "seconds": time.process_time() - start,
        "loss": loss,
        "units": [layer.out_features for layer in model.layers[:-1]],
        "parameters": parameters_of(model),
    }


def gromo(file: dict[str, np.ndarray]) -> dict[str, Any]:
    """Runs of every seed by each number of growths; one not counted loads what PyTorch loads late."""
    given = {name: torch.from_numpy(own) for name, own in file.items()}
    cut = [given[name].split(1000) for name in ("train_x", "train_y", "test_x", "test_y")]
    train, test = list(zip(*cut[:2], strict=True)), list(zip(*cut[2:], strict=True))
    grown(train, test, growths=1, seed=0)
    every = {growths: range(int(given["seeds"])) for growths in given["growths"].tolist()}
    return {
        str(growths): [grown(train, test, growths=growths, seed=seed) for seed in seeds]
        for growths, seeds in every.items()
    }


# Torch-Pruning: a dense network, made smaller


def tuned(model: torch.nn.Module, given: dict[str, torch.Tensor], rate: float, steps: int) -> float:
    """Adam on batches of 128, with a rate that falls as a cosine to zero; the CPU seconds that it took."""
    start, rows = time.process_time(), len(given["train_x"])
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    epochs = -(-steps // (rows // 128))
    order = torch.cat([torch.randperm(rows)[: rows // 128 * 128] for _ in range(epochs)])
    for batch in order.split(128)[:steps]:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(given["train_x"][batch]), given["train_y"][batch]).backward()
        optimiser.step()
        schedule.step()
    return time.process_time() - start


def scored(model: torch.nn.Module, given: dict[str, torch.Tensor], seconds: float) -> dict[str, float]:
    """Test accuracy, cross-entropy, parameters, and the seconds that led there."""
    with torch.no_grad():
        logits, labels = model(given["test_x"]), given["test_y"]
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    return {"parameters": parameters_of(model), "accuracy": accuracy, "loss": loss, "seconds": seconds}


def pruning(file: dict[str, np.ndarray]) -> dict[str, Any]:
    """The dense network of every seed, and what pruning by magnitude to each width and tuning leave of it."""
    import torch_pruning

    given = {name: torch.from_numpy(own) for name, own in file.items()}
    rate, steps, tuning = float(given["rate"]), int(given["steps"]), int(given["tuning"])
    units, widths, found = int(given["units"]), given["widths"].tolist(), {}
    tuned(network(given["train_x"].shape[1], units, 10), given, rate, 2)
    for seed in range(int(given["seeds"])):
        torch.manual_seed(seed)
        dense = network(given["train_x"].shape[1], units, 10)
        seconds = tuned(dense, given, rate, steps)
        found.setdefault("dense", []).append(scored(dense, given, seconds))
        for width in widths:
            model, start = copy.deepcopy(dense), time.process_time()
            torch_pruning.pruner.MagnitudePruner(
                model,
                given["train_x"][:1],
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=1.0 - width / units,
                ignored_layers=[model[2]],
            ).step()
            cut = time.process_time() - start
            total = seconds + cut + tuned(model, given, rate / 3, tuning)
            found.setdefault(str(width), []).append(scored(model, given, total))
    return found


def main() -> None:
    tasks = {"speed": speed, "gromo": gromo, "pruning": pruning}
    parser = argparse.ArgumentParser(description="The part of `peers.py` that needs PyTorch.")
    parser.add_argument("task", choices=tasks)
    parser.add_argument("file", type=Path, help="an .npz file that `peers.py` writes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.file) as file:
        found = tasks[options.task](dict(file))
    libraries = {"speed": (), "gromo": ("gromo",), "pruning": ("torch-pruning",)}[options.task]
    versions = {name: importlib.metadata.version(name) for name in ("torch", *libraries)}
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads(), "found": found}))


if __name__ == "__main__":
    main()
