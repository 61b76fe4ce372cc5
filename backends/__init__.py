"""One folder per model framework, found through the entry-point group `despina.backends`."""
