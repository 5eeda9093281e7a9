"""A job that prints numbered lines for a rule to find, slowly: python hitting.py COUNT EVERY_S."""

import sys
import time

for number in range(1, int(sys.argv[1]) + 1):
    print(f"all is well {number}\nHIT {number}", flush=True)
    time.sleep(float(sys.argv[2]))
