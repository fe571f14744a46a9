"""A plugin that would end the process it is imported into."""

import sys

sys.exit(7)
