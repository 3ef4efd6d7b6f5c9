"""``python -m deepseek_edge`` is the command ``deepseek-edge``."""

import sys

from deepseek_edge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
