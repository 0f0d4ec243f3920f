"""Checks of learning-rate schedules against golden vectors."""

from __future__ import annotations

import numpy as np
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import schedule_factor


@check("cdsp", "lr_schedule")
def check_cdsp_lr(v: Vectors) -> None:
    per_epoch = v.scalar("steps_per_epoch")
    total, warmup = v.scalar("epochs") * per_epoch, v.scalar("warmup_epochs") * per_epoch
    found = [
        v.scalar("base_lr")
        * schedule_factor(int(t), int(total), schedule="cosine", warmup_steps=int(warmup))
        for t in v.labels("step")
    ]
    v.compare("lr", found, rtol=1e-6, atol=0)


@check("pfa", "lr_schedule")
def check_pfa_lr(v: Vectors) -> None:
    total, base = int(v.scalar("epochs")) + 1, np.array([6e-5, 0, 6e-4, 6e-4])
    found = [base * schedule_factor(int(e), total, schedule="linear") for e in v.labels("epoch")]
    v.compare("lr", found, rtol=1e-5, atol=1e-12)


@check("spml_modules", "lr_poly")
def check_spml_lr(v: Vectors) -> None:
    found = [
        v.scalar("base_lr")
        * schedule_factor(
            int(t),
            int(v.scalar("max_iter")),
            schedule="poly",
            warmup_steps=int(v.scalar("warmup")),
            warmup_start=0.1,
        )
        for t in v.labels("iteration")
    ]
    v.compare("lr", found, rtol=1e-5, atol=1e-12)
