"""From a scan to an image: the recipe, the engine, the checks, the warnings."""
