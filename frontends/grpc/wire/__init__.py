"""What travels: HTTP/2 numbers and frames, and the header blocks of replies."""
