"""A plugin that takes its process with it, without a word."""

import os

os._exit(9)
