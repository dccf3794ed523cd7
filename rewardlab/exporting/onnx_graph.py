"""A scorer as one ONNX graph, compared with the reward in onnxruntime before it stands."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardlab.errors import InputError, reason_of

FILE = "model.onnx"
OUTPUT = "score"
LARGE = 1_500_000_000  # bytes of weights beyond which they stand beside the graph; it holds 2 GB
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class TextGraph(nn.Module):
    """Scores of token tables: the last state that is no padding, one linear head, a constant.

    Args:
        network: a sequence classifier of transformers with a `score` head over its base model.
        offset: what is added.
        pad: the token that pads.
    """

    def __init__(self, network: Any, offset: float, pad: int) -> None:
        super().__init__()
        self.base = network.base_model
        self.head = network.score
        self.offset = offset
        self.pad = pad

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return scores [B] of ids [B, T] and their mask [B, T], padded on the right."""
        output = self.base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (columns * (input_ids != self.pad)).argmax(1)
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        states = output.last_hidden_state[rows, last].float()
        return self.head(states)[:, 0] + self.offset  # type: ignore[no-any-return]


class PairGraph(nn.Module):
    """Scores of a published classifier's token tables.

    Args:
        network: a sequence classifier of transformers with one label.
        offset: what is added.
        names: of the tables that it takes, in order.
    """

    def __init__(self, network: Any, offset: float, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.offset = offset
        self.names = tuple(names)

    def forward(self, *tables: Tensor) -> Tensor:
        """Return scores [B] of token tables [B, T]."""
        logits = self.network(**dict(zip(self.names, tables, strict=True))).logits
        return logits[:, 0].float() + self.offset  # type: ignore[no-any-return]


class PixelGraph(nn.Module):
    """Scores of preprocessed pictures.

    Args:
        model: an exported model of images.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return scores [B] of pixels [B, 3, H, W]."""
        return self.model(pixel_values).logits[:, 0]  # type: ignore[no-any-return]


def check_installed() -> None:
    """Refuse to begin where ONNX is not installed.

    Raises:
        InputError: naming what is missing, and the command that installs it.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"`rewardlab export --to onnx` needs {', '.join(missing)}, which is not installed. "
            "pip install 'rewardlab[onnx]'"
        )


def write_graph(
    folder: Path, module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Sequence[str]
) -> None:
    """Write a module as `model.onnx` into a folder.

    Args:
        folder: to write into.
        module: called with the inputs in order.
        inputs: example tables by their names, of at least 2 rows.
        dynamic: names of the dimensions that may have any size: "batch", then "length".

    Raises:
        InputError: if torch cannot express it.
    """
    shapes = tuple(dict(enumerate(dynamic)) for _ in inputs)
    takes_many = isinstance(module, PairGraph)
    weight = sum(parameter.nbytes for parameter in module.parameters())
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(folder / FILE),
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_shapes=(shapes,) if takes_many else shapes,
                external_data=weight > LARGE,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # a foreign network can make the exporter raise anything
        raise InputError(
            f"torch cannot write this {type(module).__name__} as ONNX: {reason_of(error)}. "
            "Export it --to transformers."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says of its own workings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def graph_scores(folder: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what onnxruntime computes on the CPU, float32 [B]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    feeds = {name: table.numpy() for name, table in inputs.items()}
    scores = session.run([OUTPUT], feeds)[0]
    return torch.from_numpy(scores)
