"""`python -m benchmarks.sets`: the peak memory of sets of terms on a large transformer, in models.

It writes docs/data/sets.csv and the table of docs/curvature.md. Memory is that of tensors, from torch's log of every
allocation, above what is in use before: the model, its gradients, and the optimizer's state. One model is the memory of
all weights. No set is measured before another one in a process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ireg
from benchmarks.case import ROOT
from benchmarks.memory import peak_tensors
from ireg import catalogue
from ireg.system.command import framed, run_as_process
from ireg.system.files import replacing
from ireg.tables import markdown
from study.scripts.published import DATA, published

CSV = DATA / "sets.csv"
SETS = tuple(name for name in ("default", "theory", "curvature", "noise") if name in catalogue.SETS)
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1e-2),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-3),
}
BATCHES, EXAMPLES = 4, 1


class Transformer(nn.Module):
    """A decoder like GPT-2: next tokens from the tokens so far.

    Args:
        width: of a token; a multiple of 64, the width of a head.
        blocks: their number.
        vocabulary: the number of tokens.
    """

    def __init__(self, width: int, blocks: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next tokens, (examples, vocabulary, length)."""
        values, mask = self.tokens(tokens), nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        for block in self.blocks:
            values = block(values, src_mask=mask, is_causal=True)
        scores: Tensor = self.head(values).mT
        return scores


def peak(optimizer: str, terms: str, *, width: int, blocks: int, length: int) -> dict[str, float]:
    """Measure a set once, and return the peak in models, beside the number of weights."""
    torch.manual_seed(0)
    vocabulary = 8 * width
    module = Transformer(width, blocks, vocabulary)
    tokens = torch.randint(vocabulary, (BATCHES * EXAMPLES, length + 1))
    batches = list(zip(tokens[:, :-1].split(EXAMPLES), tokens[:, 1:].split(EXAMPLES), strict=True))
    trained = OPTIMIZERS[optimizer](module.parameters())
    for inputs, targets in batches:
        trained.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        trained.step()
    size = sum(value.numel() * value.element_size() for value in module.parameters())
    values: dict[str, float] = {}
    tensors = peak_tensors(
        lambda: values.update(ireg.measure(module, batches, optimizer=trained, terms=terms, criterion=cross_entropy))
    )
    products = values.get("curvature/lambda_max_products", float("nan"))
    weights = sum(value.numel() for value in module.parameters())
    return {"weights": weights, "models": tensors / size, "products": products}


def rows(sets: Sequence[str], width: int, blocks: int, length: int) -> Iterator[dict[str, str | float]]:
    """Yield each set's peak with each optimizer, each from a process of its own."""
    for terms in sets:
        for optimizer in OPTIMIZERS:
            sizes = {"width": width, "blocks": blocks, "length": length}
            command = [sys.executable, "-m", "benchmarks.sets", "--one", json.dumps([optimizer, terms, sizes])]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            yield {"set": terms, "optimizer": optimizer, **json.loads(done.stdout.splitlines()[-1])}


def table(found: pd.DataFrame) -> str:
    """Write the table of docs/curvature.md."""
    lines = [
        [f"`terms={row['set']}`", row["optimizer"], f"{row['weights'] / 1e6:.1f} million", f"{row['models']:.1f}"]
        for row in found.to_dict("records")
    ]
    return markdown(["set", "optimizer", "weights", "peak in models"], lines)


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write file and page, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sets", description="Write docs/data/sets.csv.")
    parser.add_argument("--width", type=int, default=512, help="of the transformer (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=4, help="of the transformer (default: %(default)s)")
    parser.add_argument("--length", type=int, default=32, help="tokens of an example (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="to be measured (default: all)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.one is not None:
        optimizer, terms, sizes = json.loads(given.one)
        print(json.dumps(peak(optimizer, terms, **sizes)))
        return 0
    found = pd.DataFrame(rows(given.sets, given.width, given.blocks, given.length))
    with replacing(CSV) as temporary:
        found.to_csv(temporary, index=False, float_format="%.4g")
    print(published("sets", table(pd.read_csv(CSV)), "docs/curvature.md"))
    return 0


if __name__ == "__main__":
    run_as_process(main)
