"""Skips this folder if TensorFlow is not installed."""

import os

from support.needs import has

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
collect_ignore_glob = [] if has("tensorflow", "ml_dtypes") else ["*"]
