"""Check of windows over scales, whose network sees where in a window a pixel is."""

from __future__ import annotations

import torch
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import resized_window_probabilities


@check("cdsp", "tta")
def check_windows_over_scales(v: Vectors) -> None:
    colours, places = (torch.from_numpy(v.param(name)) for name in ("A", "P"))
    mean = torch.from_numpy(v.param("mean")).view(1, 3, 1, 1)
    image = v.tensor("image").double().permute(2, 0, 1)[None] - mean
    seen = 0

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(x)
        rows, columns = (torch.arange(n, dtype=x.dtype) for n in x.shape[2:])
        row, column = (p.view(1, -1, 1, 1) for p in places.T)
        linear = torch.einsum("kc,bchw->bkhw", colours, x)
        return linear + row * rows[:, None] + column * columns

    counts, total = [], 0
    scales = [float(scale) for scale in v.param("scales")]
    for scale in scales:
        seen = 0
        total = total + resized_window_probabilities(
            forward,
            image,
            base_size=int(v.scalar("base_size")),
            window=int(v.scalar("crop")),
            scales=[scale],
        )
        counts.append(seen)
    v.compare("num_windows", counts, rtol=0, atol=0)
    v.compare("prob", (total / len(scales))[0].permute(1, 2, 0), rtol=1e-3, atol=1e-4)
