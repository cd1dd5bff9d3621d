"""timm backbones behind one interface: images in 0..1 in, one embedding an image out (`encoder.py`)."""
