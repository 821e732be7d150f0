"""Skips this folder if Keras, or the backend that KERAS_BACKEND names, is missing."""

import os

from support.needs import has

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
collect_ignore_glob = [] if has("keras", BACKEND) else ["*"]
