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
LARGE = 1_500_000_000  # bytes of weights beyond which they stand beside the graph; it holds 2 GB
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ScoreGraph(nn.Module):
    """Scores of tables, and members where the model gives them.

    Args:
        model: of transformers, with one logit.
        names: of the tables that it takes, in order.
        offset: what is added to a logit.
    """

    def __init__(self, model: Any, names: Sequence[str], offset: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.offset = offset

    @property
    def outputs(self) -> list[str]:
        """Return the names of what is computed."""
        has_members = getattr(self.model.config, "outputs", 1) > 1
        return ["score", "members"] if has_members else ["score"]

    def forward(self, *tables: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return scores [B], and members [B, M], of tables [B, ...]."""
        output = self.model(**dict(zip(self.names, tables, strict=True)))
        scores: Tensor = output.logits[:, 0].float() + self.offset
        members = getattr(output, "members", None)
        return scores if members is None else (scores, members.float())


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
    folder: Path, module: ScoreGraph, inputs: Mapping[str, Tensor], dynamic: Sequence[str]
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
    weight = sum(parameter.nbytes for parameter in module.parameters())
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(folder / FILE),
                input_names=list(inputs),
                output_names=module.outputs,
                dynamic_shapes=(shapes,),
                external_data=weight > LARGE,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # a foreign network can make the exporter raise anything
        raise InputError(
            f"torch cannot write this {type(module.model).__name__} as ONNX: {reason_of(error)}. "
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


def graph_outputs(folder: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what onnxruntime computes on the CPU: the score, then members, float32 [B, O]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    feeds = {name: table.numpy() for name, table in inputs.items()}
    columns = []
    for output in session.run(None, feeds):
        column = torch.from_numpy(output)
        columns.append(column.view(len(column), -1))
    return torch.cat(columns, 1)
