"""Telemetry: what the proxy says about itself, in metrics and in logs."""
