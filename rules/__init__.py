"""Failure rules: `<family>/<id>.toml` with its samples beside it; read as data, never imported from."""
