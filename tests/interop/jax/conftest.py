"""Left out of the collection where JAX is not installed; else JAX is set up before its tests."""

from support.needs import has

collect_ignore_glob = ["*"]
if has("jax", "ml_dtypes"):
    import support.jaxcpu  # noqa: F401

    collect_ignore_glob = [] if has("flax") else ["test_flax.py"]
