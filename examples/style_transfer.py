"""A photograph in a painting's style (Gatys 2016): python examples/style_transfer.py photo.png painting.jpg out.png"""

import sys

from neurocodec.synthesis import gatys, pictures

photograph, painting = (pictures.read(path, 256) for path in sys.argv[1:3])
x, losses = gatys.transfer(photograph, painting, content_weight=0.1, iterations=100)
pictures.write(x, sys.argv[3])
