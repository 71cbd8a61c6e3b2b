"""Where things are in a checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SMALL_MODEL = GOLDEN / "model" / "small.safetensors"
PHOTO = ROOT / "neurocodec" / "data" / "astronaut.png"
