"""The transport: frames from and to a socket, flow control, limits, time."""
