"""What a layer knows of a picture (Mahendran 2015): python examples/feature_inversion.py photo.png relu4_2 out.png"""

import sys

from neurocodec.synthesis import gatys, pictures

photograph = pictures.read(sys.argv[1], 256)
x, losses = gatys.invert(photograph, layer=sys.argv[2], iterations=100)
pictures.write(x, sys.argv[3])
