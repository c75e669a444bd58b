"""Which unit runs where, and why: pure, without I/O, clock or dice."""
