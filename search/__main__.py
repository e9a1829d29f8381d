"""``python -m search ...``: the same as ``searchzoo search ...``."""

import sys

from zoo.console import main

if __name__ == '__main__':
    sys.exit(main(['search', *sys.argv[1:]]))
