"""Settings of every test run."""

from hypothesis import HealthCheck, settings

# The same examples in every run: a test that fails in CI fails everywhere.
settings.register_profile(
    "reproducible",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")
