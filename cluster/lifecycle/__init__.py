"""How clusters come and go: create, wait until ready, grow, shrink, snapshot, restore, clean up."""
