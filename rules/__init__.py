"""Failure rules, one `<family>/<id>.toml` each with its samples beside it; read as data, never imported from."""
