"""The configurations that are measured."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from ireg.sweeps import callback as _registers_schema_and_resolvers  # noqa: F401

ROOT = Path(__file__).parents[1]
HIDDEN_LAYERS = 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration; what is not named here has the project's defaults.

    Attributes:
        optimizer: name of a file in `conf/optimizer`.
        width: neurons of each hidden layer.
        batch_size: examples in a minibatch.
        num_examples: training examples; None for all.
        threads: of torch.
        extra: further settings, like `data.test_size=1000`.
    """

    optimizer: str
    width: int = 256
    batch_size: int = 64
    num_examples: int | None = None
    threads: int = 1
    extra: tuple[str, ...] = ()

    def __str__(self) -> str:
        examples = "" if self.num_examples is None else f", {self.num_examples} examples"
        return f"{self.optimizer}, width {self.width}, batch size {self.batch_size}{examples}"

    def overrides(self, epochs: int) -> list[str]:
        """Return a run's command line, for so many epochs."""
        return [
            *self.extra,  # first, since the last value of a key counts
            f"optimizer={self.optimizer}",
            f"model.hidden={[self.width] * HIDDEN_LAYERS}",
            f"batch_size={self.batch_size}",
            f"threads={self.threads}",
            f"epochs={epochs}",
            "trainer.accelerator=cpu",  # where the other sides run, too
            *([] if self.num_examples is None else [f"data.train_size={self.num_examples}"]),
        ]


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[tuple[DictConfig, Path]]:
    """Yield a configuration as `train.py` gets it, and its folder, which is removed afterwards."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), TemporaryDirectory() as folder:
        config = compose("config", list(overrides), return_hydra_config=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = folder
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
        yield config, Path(folder)


def pass_flops(model: nn.Module, num_examples: int) -> int:
    """Count the floating-point operations of the matrix products of one pass over `num_examples`.

    The pass is forward and backward. A Linear layer of I inputs and O outputs takes 2·I·O an example for its outputs,
    as many for the gradient of its weights, and as many for that of its inputs; the first layer's inputs are the data
    and need none.
    """
    products = [layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)]
    return 2 * num_examples * (3 * sum(products) - products[0])
