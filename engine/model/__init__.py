"""One version of one model, from opening to closing."""
