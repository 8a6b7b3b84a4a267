"""Small files that travel to a device compressed: compressed/*.jpg, by Pillow."""
from PIL import Image

grey = Image.new("L", (16, 8))
grey.putdata([(x * 9 + y * 13) % 256 for y in range(8) for x in range(16)])
grey.save("compressed/grey_16x8.jpg", quality=60)
colour = Image.new("RGB", (48, 32))
colour.putdata([((x * 7 + y * 3) % 256, x * y % 256, (255 - x * 5 + y) % 256) for y in range(32) for x in range(48)])
colour.save("compressed/colour_48x32.jpg", quality=75, subsampling=2, restart_marker_blocks=2)
