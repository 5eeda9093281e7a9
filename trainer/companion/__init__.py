"""The folder that goes on the PYTHONPATH of a training job; nothing of guardian imports it."""
