"""Hypothesis, as it suits machines that are busy with other tests."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "yizhan",
    deadline=None,  # another test's load must not make this one fail
    database=None,  # writes nothing beside the tests
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("yizhan")
