"""``python -m deepseek_edge.runtime`` prints what CMAKE_PREFIX_PATH needs."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
