"""What each key of the configuration means, as plain data for `--help` and docs/configuration.md."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

from ireg.catalogue import CATALOGUE, NAMES, SET_TITLES
from ireg.config.comments import first_comment
from ireg.config.schema import GROUPS
from ireg.tables import markdown as table

KEYS: dict[str, str] = {
    "lr": "learning rate η; set here only",
    "batch_size": "examples in a minibatch; optimizer=gd takes the full batch instead",
    "epochs": "how long a run trains",
    "max_steps": "train for so many steps instead, with a row every terms.every_n_steps of them; null: for epochs",
    "seed": "initial weights and order of the minibatches, a function of seed and epoch",
    "loss": "what is minimized: cross_entropy, or squared_error, ½ Σ (output − label as a unit vector)²",
    "sampling": "how minibatches are drawn: epoch, each example once an epoch; independent, each minibatch on its own",
    "threads": "torch's threads in a run; on a CPU the same number gives the same bits, alone or in a sweep",
    "data.root": "folder of the data set's files; null: the package's own copy",
    "data.train_size": "a random subset of the training examples; null: all",
    "data.test_size": "a random subset of the test examples; null: all",
    "data.holdout": "so many training examples are held out, with their noisy labels: holdout/error; null: none",
    "data.context": "characters in a block of a text, which is an example; null: no text",
    "data.subset_seed": "which subset, and which are held out",
    "data.standardize": "subtract the data set's mean and divide by its standard deviation",
    "data.eval_batch_size": "examples that are evaluated at once",
    "data.noise.kind": "label noise: symmetric (another class), uniform (any class), pairflip (the next class), none",
    "data.noise.rate": "share of the training labels that are drawn again",
    "data.noise.seed": "which labels",
    "data.noise.test_rate": "the same noise on test labels",
    "schedule.warmup": "steps in which the learning rate rises to lr",
    "schedule.final": "share of lr that the schedules cosine and linear end at",
    "weight_average.decay": "β of weight_average=ema: ω̄ ← β ω̄ + (1 − β) ω after each step",
    "model.hidden": "widths of the hidden layers of mlp",
    "terms.every": "measure the terms every N-th epoch, before training and after the last",
    "terms.every_n_steps": "with max_steps, the steps from one row to the next; terms.every counts such rows",
    "terms.num_batches": "estimate the terms from so many of the epoch's minibatches; null: from all",
    "terms.method": "how minibatch gradients are computed: auto, loop, vmap, ghost, layers, hooks, backward",
    "terms.by": "measure terms of gradients also by layer or by parameter group; null: of the whole network alone",
    "trainer.accelerator": "cpu, gpu, or auto",
    "trainer.devices": "devices of a run: one",
    "trainer.precision": "32-true, 64-true, 16-mixed or bf16-mixed",
    "trainer.fused": "torch's fused optimizers, faster and not bit-equal: auto (where they exist), true or false",
    "logger.tensorboard": "write TensorBoard's event files; metrics.csv is always written",
    "logger.histograms": "distributions of weights and of minibatch gradients' norms in TensorBoard",
    "checkpoint.every": "write the state of training every N-th epoch or row: what an interrupted run repeats, at most",
    "objective": "the tag whose last value a run returns to a sweeper that searches",
    "name": "folder: multirun/NAME/RUN",
}
"""By key, in the order in which they are shown."""

NOT_SHOWN = ("data.name", "data.source", "data.num_train", "data.num_test", "data.num_classes", "data.mean", "data.std")
"""Keys that belong to a data set and are not the user's to set."""


def defaults(conf: Path) -> dict[str, Any]:
    """Read the default of each key, by dotted key.

    Args:
        conf: the folder of the configuration.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ireg.config.schema import register
    from ireg.runs.status import flat

    register()
    with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
        tree = OmegaConf.to_container(compose("config"), resolve=True)
    assert isinstance(tree, dict)
    return flat({str(key): value for key, value in tree.items()})


def choices(conf: Path, group: str) -> dict[str, str]:
    """Read a group's choices, and what the first comment of each says.

    Those of `terms` are in the catalogue.

    Args:
        conf: the folder of the configuration.
        group: a folder in it.

    Returns:
        The comment by the choice's name.
    """
    if group == "terms":
        return SET_TITLES | {name: CATALOGUE[tag].title for name, tag in NAMES.items()}
    result = {}
    for path in sorted((conf / group).glob("*.yaml")):
        result[path.stem] = first_comment(path)
    return result


def written(value: Any) -> str:
    """Write a default as the command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else f"{value}"


def help_text(conf: Path, program: str) -> str:
    """Write what `--help` shows, as wide as the terminal, but at most 110 columns.

    Args:
        conf: the folder of the configuration.
        program: how the command is called.
    """
    width = min(shutil.get_terminal_size().columns, 110)
    lines = [
        *textwrap.wrap(f"{program}: train a network and measure the implicit regularization of its optimizer", width),
        "",
        *_columns(
            {
                f"{program} optimizer=rmsprop lr=1e-3": "one run",
                f"{program} -m optimizer=sgd,adam lr=1e-3,1e-2": "every combination: a sweep",
                f"{program} experiment=paper": "a whole experiment",
            },
            width,
        ),
        "",
        "Groups, of which one is chosen, like optimizer=adam:",
        *_columns({group: " ".join(choices(conf, group)) for group in GROUPS if group != "experiment"}, width),
        "",
        "Experiments, like experiment=paper:",
        *_columns(choices(conf, "experiment"), width),
        "",
        "Keys and their defaults, set like epochs=10:",
    ]
    values = defaults(conf)
    lines += _columns({f"{key}={written(values[key])}": meaning for key, meaning in KEYS.items()}, width)
    lines += [
        "",
        *textwrap.wrap(
            "The arguments of an optimizer, a model and a regularizer are set like optimizer.betas=[0.9,0.99]; one "
            "that has no value yet is added with ++, like ++optimizer.weight_decay=1e-4. A term is left out like "
            "terms.ireg.sgd=null.",
            width,
        ),
        f"{program} --hydra-help lists Hydra's own options,",
        f"{program} --cfg job shows the whole configuration.",
    ]
    return "\n".join(lines)


def _columns(entries: dict[str, str], width: int) -> list[str]:
    """Set entries in two columns; a name that is too wide for its column stands above its text."""
    left = min(max(map(len, entries)), width // 2)
    lines = []
    for name, text in entries.items():
        folded = textwrap.wrap(text, max(20, width - left - 4)) or [""]
        if len(name) > left:
            lines.append(f"  {name}")
            name = ""
        lines.append(f"  {name.ljust(left)}  {folded[0]}".rstrip())
        lines += [f"  {'':{left}}  {more}" for more in folded[1:]]
    return lines


def markdown(conf: Path) -> str:
    """Write the table of docs/configuration.md."""
    values = defaults(conf)
    rows = [[f"`{key}`", f"`{written(values[key])}`", meaning] for key, meaning in KEYS.items()]
    return table(["key", "default", "meaning"], rows, rule="---")
