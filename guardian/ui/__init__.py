"""What a person sees of a Run or a Report; no state."""
