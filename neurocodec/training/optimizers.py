"""The optimisers: Adam, or Muon or SOAP on the matrices of the 1×1 layers and Adam on the rest."""

from __future__ import annotations

import torch
from torch import nn

from neurocodec.errors import ConfigError, MissingPackageError
from neurocodec.models.layers import Pointwise, QualityRows
from neurocodec.training.config import TrainingConfig


def make_optimizers(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """One optimiser or two over all parameters that are not frozen; each group has its peak learning rate as "peak".

    Raises ConfigError or MissingPackageError if `training.optimizer` needs what is not installed.
    """
    kind = settings.optimizer
    rows = {id(p) for m in model.modules() if isinstance(m, QualityRows) for p in m.parameters()}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, Pointwise) and kind != "adam"}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in rows | matrices], "peak": settings.learning_rate},
        {"params": [p for p in parameters if id(p) in rows], "peak": settings.rows_learning_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)]
    group = {"params": [p for p in parameters if id(p) in matrices], "peak": settings.learning_rate}
    if kind == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError("training.optimizer is 'muon', which needs PyTorch 2.9 or later; use 'adam'.")
        optimizers.append(torch.optim.Muon([group], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    if kind == "soap":
        try:
            from pytorch_optimizer import SOAP
        except ImportError as error:
            raise MissingPackageError(
                "training.optimizer is 'soap', which needs pytorch-optimizer: pip install 'neurocodec[train]'"
            ) from error
        optimizers.append(SOAP([group], betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=10))
    return optimizers
