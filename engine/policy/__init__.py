"""Pure decisions: `decide(state, now) -> effects`. No I/O, no clock, no trio: property-tested as they stand."""
