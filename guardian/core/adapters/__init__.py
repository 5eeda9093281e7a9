"""What guardian knows of each training framework's command line, one family per file."""
