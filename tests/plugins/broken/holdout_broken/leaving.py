"""Ends the process that imports it, as a script without a guard does."""

import sys

sys.exit("usage: leaving.py FILE; see /usr/share/doc/leaving/README")
