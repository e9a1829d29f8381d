"""``python -m downstream ...`` is ``searchzoo downstream ...``."""

import sys

from zoo.console import main

sys.exit(main(['downstream', *sys.argv[1:]]))
