"""Metrics: torchmetrics classes over pure functions."""
