"""What the verbs that ask a running server share: where it is, whom to trust, and the calls."""
