"""What every machine does: registers, carries out its orders, reports states."""
