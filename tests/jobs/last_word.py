"""A job of the standard library alone whose last word is the reason of its end: `last_word.py LINE [newline]`.

Nothing happens between the word and the end: whoever hears the end first must not judge before having read the word.
"""

import os
import sys

for step in range(100):
    print(f"step {step}: nothing to see")
os.write(2, sys.argv[1].encode() + b"\n" * (sys.argv[2:] == ["newline"]))
os._exit(1)
