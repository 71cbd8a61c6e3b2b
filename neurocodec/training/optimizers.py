"""The optimisers: Adam; or SOAP on the matrices of the 1×1 layers and Adam on the rest."""

from __future__ import annotations

import torch
from torch import nn

from neurocodec.errors import MissingPackageError
from neurocodec.models.layers import Pointwise, QualityRows
from neurocodec.training.config import TrainingConfig


def make_optimizers(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """One optimiser or two over all parameters that are not frozen; each group has its peak learning rate as "peak".

    Raises MissingPackageError if `training.optimizer` needs what is not installed.
    """
    soap = settings.optimizer == "soap"
    rows = {id(p) for m in model.modules() if isinstance(m, QualityRows) for p in m.parameters()}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, Pointwise) and soap}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in rows | matrices], "peak": settings.learning_rate},
        {"params": [p for p in parameters if id(p) in rows], "peak": settings.rows_learning_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)]
    if soap:
        try:
            from pytorch_optimizer import SOAP
        except ImportError as error:
            raise MissingPackageError(
                "training.optimizer is 'soap', which needs pytorch-optimizer: pip install 'neurocodec[train]'"
            ) from error
        group = {"params": [p for p in parameters if id(p) in matrices], "peak": settings.learning_rate}
        optimizers.append(
            SOAP([group], betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=20, max_precondition_dim=512)
        )
    return optimizers
