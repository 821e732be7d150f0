"""Skips this folder if Dask is not installed."""

from support.needs import has

collect_ignore_glob = [] if has("dask", "ml_dtypes") else ["*"]
if has("dask") and not has("distributed"):
    collect_ignore_glob.append("test_cluster.py")
