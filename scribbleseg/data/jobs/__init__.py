"""Jobs that fill a folder image by image: convert, propagate, synthesize, superpixels."""
