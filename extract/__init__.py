"""Features of images into the store; measures that turn a feature into a vector."""
