"""Judgement: values in, values out. Nothing in here may touch the outside world (tests/test_layers.py)."""
