"""How an image becomes k-space and back: transforms, operators, masks, coils, units."""
