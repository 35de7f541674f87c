"""Makes torch-fidelity, pytorch-fid and clean-fid import beside a CPU build of torch.

They import torchvision, of which the registry has no CPU build; the published one imports once the operators that its
compiled part would have brought are declared. None of what is compared here calls them.
"""

from __future__ import annotations

import torch

_OPERATORS = ("nms", "qnms")  # those for which it registers shapes whether they are there or not


def declare_operators() -> torch.library.Library:
    """Declares what torchvision registers fake kernels for; keep the result alive."""
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


LIBRARY = declare_operators()
