"""The plugins of all suites, and how patient hypothesis is."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.harness.plugin", "tests.conformance.plugin"]

# Nothing is a failure for being slow on a busy machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):  # where hypothesis has a profile of its own, which is patient too
    settings.load_profile("patient")
