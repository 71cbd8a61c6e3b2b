"""More of a texture, from noise (Gatys 2015): python examples/texture_synthesis.py texture.jpg out.png"""

import sys

from neurocodec.synthesis import gatys, pictures

texture = pictures.read(sys.argv[1], 256)
x, losses = gatys.synthesise(texture, 256, iterations=200)
pictures.write(x, sys.argv[2])
