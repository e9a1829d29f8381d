"""``python -m zoo ...`` is ``searchzoo zoo ...``."""

import sys

from zoo.console import main

sys.exit(main(['zoo', *sys.argv[1:]]))
