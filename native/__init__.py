"""The shared library `libtritonserver.so`, and what it is made of: see README.md beside this."""
