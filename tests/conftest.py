"""Properties are tried however long an example takes: the machine may be busy. No test takes a GPU for itself."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
