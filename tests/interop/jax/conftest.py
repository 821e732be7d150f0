"""Skips this folder if JAX is not installed; otherwise configures JAX before its tests."""

from support.needs import has

collect_ignore_glob = ["*"]
if has("jax", "ml_dtypes"):
    import support.jaxcpu  # noqa: F401

    collect_ignore_glob = [] if has("flax") else ["test_flax.py"]
