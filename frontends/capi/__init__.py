"""The C API: a door without a socket, for programs that have the server inside. See README.md."""
