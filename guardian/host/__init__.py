"""Effects: one outside thing per file, and no judgement."""
