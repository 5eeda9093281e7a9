"""What runs inside the training process: the embedded trainer and the companion."""
