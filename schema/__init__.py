"""Values only: tensors, requests, configuration, faults, wire messages. No I/O, no trio, no clock."""
